"""The housekeeping jobs and their schedules, as Dagster runs them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.resources import PostgresResource, RedisResource
from viewer_pipeline.orchestration.retention_schedules import KEPT
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.world import World

OPS = {
    "prune_ledger_days": "prune_old_ledger",
    "prune_run_history": "delete_old_runs",
    "prune_input": "prune_old_input",
}


def run(
    dagster: DagsterWorld, job: str, *, dry_run: bool = False, postgres: PostgresResource | None = None
) -> dict[str, Any]:
    """Run a job in this process; return the metadata of its step."""
    result = defs.resolve_job_def(job).execute_in_process(
        instance=dagster.instance,
        run_config={"ops": {OPS[job]: {"config": {"dry_run": dry_run}}}},
        resources={"postgres": postgres} if postgres else None,
    )
    (event,) = [event for event in result.all_node_events if event.is_successful_output]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_the_ledger_is_pruned(dagster: DagsterWorld, world: World) -> None:
    """A dry run says the same and drops nothing."""
    history, today = History(world), datetime.now(UTC).date()
    for ago in (40, 31, 30, 1):
        history.flush(at(today - ONE * ago), {"a": 10})
    history.roll_up(today - ONE * 50, today - ONE * 30)
    world.send("a", 1)
    world.flush()
    kept_from = (today - ONE * 30).isoformat()
    expected = {"days": 2, "flushes": 2, "batches": 2, "views": 20, "kept_from": kept_from}
    said = run(dagster, "prune_ledger_days", dry_run=True)
    assert said == {"dry_run": True, "notes": "nothing that is old was kept"} | expected
    assert world.seqs() == [1, 2, 3, 4, 5]
    said = run(dagster, "prune_ledger_days")
    assert said == {"dry_run": False, "notes": "nothing that is old was kept", "ended": True} | expected
    assert world.seqs() == [3, 4, 5]


def test_a_day_that_is_kept_says_why(dagster: DagsterWorld, world: World) -> None:
    """In the metadata."""
    history, old = History(world), datetime.now(UTC).date() - ONE * 40
    history.flush(at(old), {"a": 10})
    said = run(dagster, "prune_ledger_days")
    assert (said["flushes"], said["kept_from"]) == (0, old.isoformat())
    assert said["notes"] == f"{old} was never added up: materialize daily_views for it"


def test_the_history_is_pruned(dagster: DagsterWorld, world: World) -> None:
    """Of old runs; with a dry run first."""
    runs = [dagster.run(dg.DagsterRunStatus.SUCCESS) for _ in range(4)]  # the last one's checks are the latest
    world.execute("UPDATE dagster.runs SET end_time = 1 WHERE run_id <> %s", runs[0])
    assert run(dagster, "prune_run_history", dry_run=True) == {"dry_run": True, "runs": 2}
    said = run(dagster, "prune_run_history")
    assert (said["runs"], said["complete"]) == (2, True)
    assert dagster.instance.get_run_by_id(runs[0]) is not None
    assert dagster.instance.get_run_by_id(runs[1]) is None


def test_old_input_is_forgotten(dagster: DagsterWorld, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the settings ask for it."""
    world.execute("INSERT INTO viewer.rejected VALUES ('1', 'message', 'x', '1', 'why', now() - interval '9 days')")
    old = "(SELECT now() - interval '9 days') AS old (t)"
    world.execute(f"INSERT INTO viewer.parked SELECT 'gone', 7, 'no row', 1, t, t FROM {old}")
    world.execute("CREATE TABLE public.video (id text PRIMARY KEY, n bigint)")
    video = PostgresResource(url=dg.EnvVar("DATABASE_URL"), target_table="public.video", target_count_column="n")
    assert run(dagster, "prune_input") == {"dry_run": False, "notes": "neither has a setting: both are kept for ever"}
    monkeypatch.setenv("REJECTED_RETENTION_DAYS", "5")
    monkeypatch.setenv("PARKED_RETENTION_DAYS", "5")
    expected = {"rejected": 1, "parked_vods": 1, "parked_views": 7}
    assert run(dagster, "prune_input", dry_run=True, postgres=video) == {"dry_run": True} | expected
    assert run(dagster, "prune_input", postgres=video) == {"dry_run": False} | expected
    assert world.parked() == {}
    assert world.rejected() == {"1 VODs": "no row came for them within PARKED_RETENTION_DAYS=5"}


def tick(name: str, dagster: DagsterWorld, world: World) -> str:
    """Evaluate a schedule once; return why it skips, or why the run is to run."""
    redis, postgres = RedisResource(url=world.stores.redis.url), PostgresResource(url=world.stores.ledger.url)
    resources = {"redis": redis, "postgres": postgres}
    with dg.build_schedule_context(instance=dagster.instance, resources=resources) as context:
        said: Any = defs.resolve_schedule_def(name)(context)
    return str(said.skip_message) if isinstance(said, dg.SkipReason) else str(said.tags["viewer/trigger"])


def test_the_ledgers_schedule(dagster: DagsterWorld, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It launches a run where a day can be dropped, and says what is in the way where none can."""
    history, old = History(world), datetime.now(UTC).date() - ONE * 40
    assert tick("prune_ledger_days_daily", dagster, world) == "no flush is older than 30 days"
    history.flush(at(old), {"a": 10})
    why = f"{old} was never added up: materialize daily_views for it"
    assert tick("prune_ledger_days_daily", dagster, world) == why
    history.roll_up(old, old + ONE)
    why = f"{old} is not settled: its last flush is 1, Redis has no marker"
    assert tick("prune_ledger_days_daily", dagster, world) == why
    world.send("a", 1)
    world.flush()
    assert tick("prune_ledger_days_daily", dagster, world) == "schedule: old days of the ledger"
    monkeypatch.setenv("LEDGER_RETENTION_DAYS", "0")
    assert tick("prune_ledger_days_daily", dagster, world) == KEPT
    assert run(dagster, "prune_ledger_days")["notes"] == "LEDGER_RETENTION_DAYS=0: the ledger is kept for ever"


def test_the_historys_schedule(dagster: DagsterWorld, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It launches a run where one is old."""
    for _ in range(2):
        dagster.run(dg.DagsterRunStatus.SUCCESS)
    assert tick("prune_run_history_daily", dagster, world) == "no run is old"
    world.execute("UPDATE dagster.runs SET end_time = 1")
    assert tick("prune_run_history_daily", dagster, world) == "schedule: old runs"
    for name in ("RUN_RETENTION_DAYS", "FAILED_RUN_RETENTION_DAYS"):
        monkeypatch.setenv(name, "0")
    assert tick("prune_run_history_daily", dagster, world) == KEPT


def test_the_inputs_schedule(dagster: DagsterWorld, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It launches a run where something is old that a setting does not keep."""
    world.execute("INSERT INTO viewer.rejected VALUES ('1', 'message', 'x', '1', 'why', now() - interval '9 days')")
    assert tick("prune_input_daily", dagster, world) == KEPT
    monkeypatch.setenv("REJECTED_RETENTION_DAYS", "10")
    assert tick("prune_input_daily", dagster, world) == "nothing is old"
    monkeypatch.setenv("REJECTED_RETENTION_DAYS", "5")
    assert tick("prune_input_daily", dagster, world) == "schedule: old rejected or parked input"
