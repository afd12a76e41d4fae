"""The log lines of a run: in its process as LOG_FORMAT says, and in Dagster's event log, where the UI shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.world import World

RunFlush = Callable[..., tuple[str, list[str]]]


@pytest.fixture
def run_flush(world: World, monkeypatch: pytest.MonkeyPatch) -> RunFlush:
    """Run a sweep with these settings; return its id and the texts of its event log that are not of Dagster."""

    def run(**settings: str) -> tuple[str, list[str]]:
        servers = {"DATABASE_URL": world.stores.ledger.url, "REDIS_URL": world.stores.redis.url}
        for name, value in {**servers, **settings}.items():
            monkeypatch.setenv(name, value)
        with dg.instance_for_test() as instance:
            result = defs.resolve_job_def(flush_views.name).execute_in_process(
                run_config=flush_run_config(FlushMode.sweep), instance=instance, raise_on_error=False
            )
            events = [record.user_message for record in instance.all_logs(result.run_id) if not record.is_dagster_event]
        return result.run_id, events

    return run


def json_lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the lines on stderr that are JSON."""
    return [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(("level", "number"), [("debug", 2), ("info", 2), ("warning", 0)])
def test_lines_of_a_run(
    world: World, run_flush: RunFlush, capfd: pytest.CaptureFixture[str], level: str, number: int
) -> None:
    """One JSON object a line, with the fields of run and flush; none below LOG_LEVEL; the event log has them all."""
    world.send("a", 5)
    run_id, logged = run_flush(LOG_FORMAT="json", LOG_LEVEL=level)
    assert [text.partition(" ")[0] for text in logged] == ["counters_read", "flush_committed"]
    assert "seq=1 flushes=1 views=5 counters=1 batches=1 work_seconds=" in logged[1]
    lines = json_lines(capfd)
    assert len(lines) == number
    if lines:
        read, committed = lines
        of_run = {"level": "info", "logger": "viewer_pipeline.run", "run_id": run_id, "job": "flush_views"}
        assert read.pop("time") < committed.pop("time")
        assert read == {
            **of_run, "event": "counters_read", "step": "view_counts.drain_counters",
            "counters": 1, "mode": "sweep", "base": 0,
        }  # fmt: skip
        assert 0 < committed.pop("work_seconds") < 600
        assert committed == {
            **of_run, "event": "flush_committed", "step": "view_counts.verify_consistency",
            "seq": 1, "flushes": 1, "views": 5, "counters": 1, "batches": 1, "rejected": 0, "parked": 0, "held": 0,
            "remaining": 0, "mode": "sweep",
        }  # fmt: skip


def test_lines_of_a_run_whose_config_selects_no_logger(
    dagster: DagsterWorld, world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As of *Materialize* in the UI."""
    monkeypatch.setenv("LOG_FORMAT", "json")
    world.send("a", 5)
    result = defs.resolve_job_def(flush_views.name).execute_in_process(instance=dagster.instance)
    lines = {line["event"]: line for line in json_lines(capfd)}
    assert lines.keys() == {"counters_read", "flush_committed"}
    assert (lines["flush_committed"]["run_id"], lines["flush_committed"]["views"]) == (result.run_id, 5)


def test_both_formats_have_the_same_fields(
    world: World, run_flush: RunFlush, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the same order."""
    world.send("a", 5)
    run_flush(LOG_FORMAT="json")
    as_json = [[key for key in line if key != "time"] for line in json_lines(capfd)]
    world.send("a", 5)
    run_flush(LOG_FORMAT="text")
    lines = [line.split() for line in capfd.readouterr().err.splitlines() if line.startswith("time=")]
    assert [[pair.partition("=")[0] for pair in line[1:]] for line in lines] == as_json


def test_lines_of_a_failed_run(
    world: World, run_flush: RunFlush, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Dagster's own lines have the name of its event, its message and the error as fields."""

    def fail(*_: object) -> None:
        raise ValueError(f"no such table: {world.stores.ledger.url.replace('://', '://viewer:Geheim7@')}")

    monkeypatch.setattr("viewer_pipeline.flush.each_stream.drain", fail)
    run_id, _ = run_flush(LOG_FORMAT="json")
    lines = {line["event"]: line for line in json_lines(capfd)}
    failure = lines["step_failure"]
    assert (failure["run_id"], failure["step"], failure["level"]) == (run_id, "view_counts.drain_counters", "error")
    assert failure["message"].startswith('Execution of step "view_counts.drain_counters" failed')
    assert "no such table" in failure["exception"]
    assert "Geheim7" not in str(lines)
    assert lines["run_failure"]["message"].startswith('Execution of run for "flush_views" failed')


def test_lines_of_other_loggers_of_a_run(world: World, run_flush: RunFlush, capfd: pytest.CaptureFixture[str]) -> None:
    """What the core logs has fields, too, although Dagster replaces its text."""
    world.client.set("vod:views:a", "no number")
    run_flush(LOG_FORMAT="json")
    lines = {line["event"]: line for line in json_lines(capfd)}
    rejected = lines["counters_rejected"]
    assert (rejected["counters"], rejected["subject"], rejected["value"]) == (1, "a", "no number")
    assert lines["nothing_committed"]["mode"] == "sweep"
