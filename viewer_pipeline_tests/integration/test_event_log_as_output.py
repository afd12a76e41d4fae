"""The tabs `stdout` and `stderr` of a run in Dagster's UI."""

from __future__ import annotations

import re

import dagster as dg
import pytest
from dagster._core.events import DagsterEventType

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.event_log_as_output import NO_LINES, STDOUT
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.world import World

HOUR = r"\d{4}-\d\d-\d\dT[\d:.]+Z"


def flush(instance: dg.DagsterInstance, *, ok: bool = True) -> str:
    """Run the flush job in this process; return its id."""
    job = defs.resolve_job_def(flush_views.name)
    return job.execute_in_process(instance=instance, raise_on_error=ok).run_id


def log_key(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """Return the key under which the UI asks for the output of the run's process."""
    (record,) = instance.get_records_for_run(run_id, of_type=DagsterEventType.LOGS_CAPTURED).records
    event = record.event_log_entry.dagster_event
    assert event is not None
    data = event.logs_captured_data
    return instance.compute_log_manager.build_log_key_for_run(run_id, data.file_key)  # type: ignore[return-value]


def tabs(instance: dg.DagsterInstance, key: list[str]) -> tuple[str, str]:
    """Return the texts of stdout and stderr, read in parts as the UI reads long ones."""
    texts, cursor = ["", ""], None
    while True:
        data = instance.compute_log_manager.get_log_data(key, cursor, max_bytes=100)
        texts = [text + (part or b"").decode() for text, part in zip(texts, (data.stdout, data.stderr), strict=True)]
        if data.cursor == cursor:
            return texts[0], texts[1]
        cursor = data.cursor


def test_stderr_has_the_log_lines(dagster: DagsterWorld, world: World) -> None:
    """Of the steps, each with time, level and step; without the events of Dagster that every run has."""
    world.send("a", 5)
    stdout, stderr = tabs(dagster.instance, log_key(dagster.instance, flush(dagster.instance)))
    read, committed = stderr.splitlines()
    assert re.fullmatch(HOUR + r" info view_counts\.drain_counters counters_read counters=1 .*", read)
    assert re.fullmatch(HOUR + r" info view_counts\.verify_consistency flush_committed seq=1 .* views=5 .*", committed)
    assert stdout == STDOUT


def test_stderr_has_the_error_of_a_failed_run(dagster: DagsterWorld, world: World) -> None:
    """With what raised it; never a password."""
    world.execute("DROP SCHEMA viewer CASCADE")
    _, stderr = tabs(dagster.instance, log_key(dagster.instance, flush(dagster.instance, ok=False)))
    assert " error view_counts.drain_counters " in stderr
    assert "run `viewer-pipeline migrate`" in stderr


@pytest.mark.parametrize(("key", "text"), [(["x", "compute_logs", "y"], NO_LINES), (["sensor", "tick", "1"], "")])
def test_stderr_without_log_lines(dagster: DagsterWorld, key: list[str], text: str) -> None:
    """A run that has logged nothing is described as such. Sensors and schedules log elsewhere."""
    assert tabs(dagster.instance, key)[1] == text
