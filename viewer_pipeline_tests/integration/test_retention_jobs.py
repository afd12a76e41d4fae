"""The retention jobs and their schedules, as Dagster runs them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.retention_schedules import NO_RETENTION_PERIOD
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.world import World

OPS = {
    "prune_ledger_days": "prune_old_ledger",
    "prune_run_history": "delete_old_runs",
    "prune_rejected_and_parked": "prune_old_rejected_and_parked",
}


def run(dagster: DagsterWorld, settings: Settings, job: str, *, dry_run: bool = False) -> dict[str, Any]:
    """Run a job in this process; return the metadata of its step."""
    result = defs.resolve_job_def(job).execute_in_process(
        instance=dagster.instance,
        run_config={"ops": {OPS[job]: {"config": {"dry_run": dry_run}}}},
        resources={"settings": settings},
    )
    (event,) = [event for event in result.all_node_events if event.is_successful_output]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_ledger_job_prunes_old_days(dagster: DagsterWorld, dagster_settings: Settings, world: World) -> None:
    """A dry run says the same and drops nothing."""
    history, today = History(world), datetime.now(UTC).date()
    for ago in (40, 31, 30, 1):
        history.flush(at(today - ONE * ago), {"a": 10})
    history.roll_up(today - ONE * 50, today - ONE * 30)
    world.send("a", 1)
    world.flush()
    kept_from = (today - ONE * 30).isoformat()
    expected = {"days": 2, "flushes": 2, "batches": 2, "views": 20, "kept_from": kept_from}
    metadata = run(dagster, dagster_settings, "prune_ledger_days", dry_run=True)
    assert metadata == {"dry_run": True, "notes": "no old day was kept"} | expected
    assert world.seqs() == [1, 2, 3, 4, 5]
    metadata = run(dagster, dagster_settings, "prune_ledger_days")
    assert metadata == {"dry_run": False, "notes": "no old day was kept", "complete": True} | expected
    assert world.seqs() == [3, 4, 5]


def test_ledger_job_notes_the_reason_a_day_is_kept(
    dagster: DagsterWorld, dagster_settings: Settings, world: World
) -> None:
    """In the metadata."""
    history, old = History(world), datetime.now(UTC).date() - ONE * 40
    history.flush(at(old), {"a": 10})
    metadata = run(dagster, dagster_settings, "prune_ledger_days")
    assert (metadata["flushes"], metadata["kept_from"]) == (0, old.isoformat())
    assert metadata["notes"] == f"{old} was never rolled up: materialize daily_views for it"


def test_run_history_job_deletes_old_runs(dagster: DagsterWorld, dagster_settings: Settings, world: World) -> None:
    """Of old runs; with a dry run first."""
    runs = [dagster.run(dg.DagsterRunStatus.SUCCESS) for _ in range(4)]  # the last one's checks are the latest
    world.execute("UPDATE dagster.runs SET end_time = 1 WHERE run_id <> %s", runs[0])
    assert run(dagster, dagster_settings, "prune_run_history", dry_run=True) == {"dry_run": True, "runs": 2}
    metadata = run(dagster, dagster_settings, "prune_run_history")
    assert (metadata["runs"], metadata["complete"]) == (2, True)
    assert dagster.instance.get_run_by_id(runs[0]) is not None
    assert dagster.instance.get_run_by_id(runs[1]) is None


def test_input_job_prunes_old_input(dagster: DagsterWorld, dagster_settings: Settings, world: World) -> None:
    """Where the settings ask for it."""
    world.execute("INSERT INTO viewer.rejected VALUES ('1', 'message', 'x', '1', 'why', now() - interval '9 days')")
    old = "(SELECT now() - interval '9 days') AS old (t)"
    world.execute(f"INSERT INTO viewer.parked SELECT 'gone', 7, 'no row', 1, t, t FROM {old}")
    world.execute("CREATE TABLE public.video (id text PRIMARY KEY, n bigint)")
    settings = dagster_settings.copy_unvalidated(target_table="public.video", target_count_column="n")
    notes = "no retention period is set: both are kept for ever"
    assert run(dagster, settings, "prune_rejected_and_parked") == {"dry_run": False, "notes": notes}
    settings = settings.copy_unvalidated(rejected_retention_days=5, parked_retention_days=5)
    expected = {"rejected": 1, "parked_vods": 1, "parked_views": 7}
    assert run(dagster, settings, "prune_rejected_and_parked", dry_run=True) == {"dry_run": True} | expected
    assert run(dagster, settings, "prune_rejected_and_parked") == {"dry_run": False} | expected
    assert world.parked() == {}
    assert world.rejected() == {"1 VOD": "no row came for them within PARKED_RETENTION_DAYS=5"}


def tick(name: str, dagster: DagsterWorld, settings: Settings) -> str:
    """Evaluate a schedule once; return its skip reason, or the trigger of the requested run."""
    resources = {"settings": settings}
    with dg.build_schedule_context(instance=dagster.instance, resources=resources) as context:
        result: Any = defs.resolve_schedule_def(name)(context)
    return str(result.skip_message) if isinstance(result, dg.SkipReason) else str(result.tags["viewer/trigger"])


def test_ledger_schedule_requests_or_skips(dagster: DagsterWorld, dagster_settings: Settings, world: World) -> None:
    """It launches a run if a day can be pruned, and otherwise reports the obstacle."""
    history, old = History(world), datetime.now(UTC).date() - ONE * 40
    assert tick("prune_ledger_days_daily", dagster, dagster_settings) == "no flush is older than 30 days"
    history.flush(at(old), {"a": 10})
    reason = f"{old} was never rolled up: materialize daily_views for it"
    assert tick("prune_ledger_days_daily", dagster, dagster_settings) == reason
    history.roll_up(old, old + ONE)
    reason = f"{old} is not settled: it has flush 1, Redis has no marker"
    assert tick("prune_ledger_days_daily", dagster, dagster_settings) == reason
    world.send("a", 1)
    world.flush()
    assert tick("prune_ledger_days_daily", dagster, dagster_settings) == "schedule: old days of the ledger"
    for_ever = dagster_settings.copy_unvalidated(ledger_retention_days=0)
    assert tick("prune_ledger_days_daily", dagster, for_ever) == NO_RETENTION_PERIOD
    assert (
        run(dagster, for_ever, "prune_ledger_days")["notes"] == "LEDGER_RETENTION_DAYS=0: the ledger is kept for ever"
    )


def test_run_history_schedule_requests_or_skips(
    dagster: DagsterWorld, dagster_settings: Settings, world: World
) -> None:
    """It launches a run where one is old."""
    for _ in range(2):
        dagster.run(dg.DagsterRunStatus.SUCCESS)
    assert tick("prune_run_history_daily", dagster, dagster_settings) == "no run is old"
    world.execute("UPDATE dagster.runs SET end_time = 1")
    assert tick("prune_run_history_daily", dagster, dagster_settings) == "schedule: old runs"
    for_ever = dagster_settings.copy_unvalidated(run_retention_days=0, failed_run_retention_days=0)
    assert tick("prune_run_history_daily", dagster, for_ever) == NO_RETENTION_PERIOD


def test_input_schedule_requests_or_skips(dagster: DagsterWorld, dagster_settings: Settings, world: World) -> None:
    """It launches a run where something is old that a setting does not keep."""
    world.execute("INSERT INTO viewer.rejected VALUES ('1', 'message', 'x', '1', 'why', now() - interval '9 days')")
    assert tick("prune_rejected_and_parked_daily", dagster, dagster_settings) == NO_RETENTION_PERIOD
    ten_days = dagster_settings.copy_unvalidated(rejected_retention_days=10)
    assert tick("prune_rejected_and_parked_daily", dagster, ten_days) == "nothing is old"
    five_days = dagster_settings.copy_unvalidated(rejected_retention_days=5)
    assert tick("prune_rejected_and_parked_daily", dagster, five_days) == "schedule: old rejected or parked input"
