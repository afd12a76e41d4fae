"""The log lines of a run: in its process as LOG_FORMAT says, and in Dagster's event log, where the UI shows them."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline_tests.support.world import World


@pytest.mark.parametrize(("level", "lines"), [("info", 2), ("warning", 0)])
def test_lines_of_a_run(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], level: str, lines: int
) -> None:
    """One JSON object a line; none below LOG_LEVEL; the event log has them all."""
    monkeypatch.setenv("DATABASE_URL", world.stores.ledger.url)
    monkeypatch.setenv("REDIS_URL", world.stores.redis.url)
    monkeypatch.setenv("LOG_FORMAT", "json")
    monkeypatch.setenv("LOG_LEVEL", level)
    world.send("a", 5)
    with dg.instance_for_test() as instance:
        result = defs.resolve_job_def(flush_views.name).execute_in_process(
            run_config=flush_run_config(FlushMode.sweep), instance=instance
        )
        logged = [record.user_message for record in instance.all_logs(result.run_id) if not record.is_dagster_event]
    lines_of_run = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert len(lines_of_run) == lines
    assert all(line["logger"] == "dagster.run" and line["level"] == "info" for line in lines_of_run)
    assert logged[0].startswith("read 1 counter,")
    assert logged[1].startswith("persisted 5 views of 1 counter,")
