"""Dagster's run history: which runs are deleted, which are kept, and that it does not grow."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg
import psycopg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.history.days import Window
from viewer_pipeline.orchestration import run_history_pruning
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline.orchestration.run_history_pruning import (
    DAY_SECONDS,
    PrunedRuns,
    RunRetention,
    find_old_reports,
    find_old_runs,
    prune_runs,
)
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.postgres import connect_dagster_storage
from viewer_pipeline_tests.support.dagster_world import DagsterWorld, by_hand
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.past_runs import insert_day, table_bytes
from viewer_pipeline_tests.support.world import World

WEEK = RunRetention(7, 30)
TABLES = ("runs", "run_tags", "event_logs", "asset_check_executions", "asset_event_tags", "snapshots")


class Past:
    """Runs that ended long ago."""

    def __init__(self, dagster: DagsterWorld, settings: Settings) -> None:
        self.instance, self.settings = dagster.instance, settings

    def flush(self, days_ago: float = 0, *, ok: bool = True) -> str:
        """Run the flush job in this process, and let it have ended so long ago. Return its id."""
        config = flush_run_config(FlushMode.changed) if ok else {"ops": {"view_counts": {"config": {"mode": "sweep"}}}}
        job = defs.resolve_job_def(flush_views.name)
        run_id = job.execute_in_process(run_config=config, instance=self.instance, raise_on_error=ok).run_id
        self.age(run_id, days_ago)
        return run_id

    def age(self, run_id: str, days: float) -> None:
        """Let a run have ended so long ago."""
        with connect_dagster_storage(self.settings) as connection:
            connection.execute(
                "UPDATE runs SET end_time = %s WHERE run_id = %s", [time.time() - days * DAY_SECONDS, run_id]
            )

    def prune(self, ages: RunRetention = WEEK, seconds: float = 60) -> PrunedRuns:
        """Delete what is old."""
        with connect_dagster_storage(self.settings) as connection:
            return prune_runs(connection, self.instance, ages, seconds)

    def runs(self) -> set[str]:
        """Return the runs that Dagster's API lists."""
        return {record.dagster_run.run_id for record in self.instance.get_run_records()}

    def rows(self) -> dict[str, int]:
        """Count the rows of the tables that grow with runs."""
        with connect_dagster_storage(self.settings) as connection:
            return {table: count(connection, f"SELECT count(*) FROM {table}") for table in TABLES}


def count(connection: psycopg.Connection, query: str) -> int:
    """Return a number."""
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def past(dagster: DagsterWorld, dagster_settings: Settings, world: World) -> Past:  # noqa: ARG001 - a world to flush
    """A Dagster history on PostgreSQL."""
    return Past(dagster, dagster_settings)


def test_old_runs_go_with_all_that_belongs_to_them(past: Past) -> None:
    """Events, tags, results of checks; as if they had never been."""
    past.flush()
    before = past.rows()
    old, young = past.flush(8), past.flush(6)
    latest = past.flush(8)
    done = past.prune()
    assert (done.runs, done.complete) == (1, True)
    assert done.events > 20
    assert past.instance.get_run_by_id(old) is None
    assert past.instance.all_logs(old) == []
    assert {young, latest} <= past.runs()
    past.age(young, 8)
    assert past.prune().runs == 1
    now = past.rows()
    assert now == {table: rows * 2 for table, rows in before.items()} | {"snapshots": before["snapshots"]}


def test_the_latest_materialization_stays(past: Past) -> None:
    """However old: it is what the UI shows, and what freshness looks at."""
    runs = [past.flush(100 - number) for number in range(3)]
    assert past.prune().runs == 2
    assert past.runs() == {runs[-1]}
    event = past.instance.get_latest_materialization_event(dg.AssetKey("view_counts"))
    assert event is not None
    assert event.run_id == runs[-1]


def test_the_latest_materialization_of_each_day_stays(past: Past, world: World) -> None:
    """Of a partitioned asset every partition has one."""
    history = History(world)
    today = datetime.now(UTC).date()
    history.flush(at(today), {"a": 1})
    job, runs = defs.resolve_job_def("roll_up_days"), []
    for window in (Window(today - ONE, today), Window(today, today + ONE), Window(today, today + ONE)):
        result = job.execute_in_process(instance=past.instance, partition_key=window.start.isoformat())
        runs.append(result.run_id)
        past.age(result.run_id, 50)
    assert past.prune().runs == 1
    assert past.runs() == {runs[0], runs[2]}


def test_reports_without_a_run_go_with_old_runs(past: Past) -> None:
    """What the sensor reported while nothing was pending; the latest stays, and so does the run before it."""
    run_id = past.flush(8)
    for _ in range(3):
        past.instance.report_runless_asset_event(dg.AssetMaterialization("view_counts", metadata={"added_views": 0}))
    assert past.prune() == PrunedRuns()
    with connect_dagster_storage(past.settings) as connection:
        assert find_old_reports(connection, WEEK, time.time()) == []
        connection.execute("UPDATE event_logs SET timestamp = timestamp - interval '8 days' WHERE run_id = ''")
        assert len(find_old_reports(connection, WEEK, time.time(), limit=1)) == 1
        assert find_old_reports(connection, RunRetention(0, 0), time.time()) == []
    assert past.prune() == PrunedRuns(events=2)
    assert past.prune() == PrunedRuns()
    assert past.runs() == {run_id}
    event = past.instance.get_latest_materialization_event(dg.AssetKey("view_counts"))
    assert event is not None
    assert event.run_id == ""


def test_failed_runs_stay_longer(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what somebody looks for."""
    with monkeypatch.context() as patch:
        patch.setattr("viewer_pipeline.flush.each_stream.drain", fail)
        failed = [past.flush(8, ok=False), past.flush(31, ok=False)]
    latest = past.flush()
    assert past.prune().runs == 1
    assert past.runs() == {failed[0], latest}


def fail(*_: object) -> None:
    """Let a step fail for good."""
    raise dg.Failure("not to be retried", allow_retries=False)


def test_runs_that_have_not_ended_stay(past: Past) -> None:
    """With a setting of 0 all of them."""
    job = defs.resolve_job_def(flush_views.name)
    going_on = past.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED).run_id
    old, latest = past.flush(99), past.flush(99)
    past.age(going_on, 99)
    assert past.prune(RunRetention(0, 0)) == PrunedRuns()
    assert past.prune().runs == 1
    assert past.runs() == {going_on, latest}
    assert old not in past.runs()


def test_runs_of_others_in_the_same_dagster_stay(past: Past) -> None:
    """Whatever they are called, and whatever they call their assets."""

    @dg.job(name=flush_views.name)
    def theirs() -> None:
        """Belong to somebody else."""

    @dg.asset(name="daily_views")
    def asset_of_theirs() -> None:
        """Belong to somebody else."""

    runs = [theirs.execute_in_process(instance=past.instance).run_id for _ in range(2)]
    of_assets = dg.Definitions([asset_of_theirs]).resolve_implicit_global_asset_job_def()
    runs += [of_assets.execute_in_process(instance=past.instance).run_id for _ in range(2)]
    for run_id in runs:
        past.age(run_id, 99)
    assert past.prune().runs == 0
    assert past.runs() == set(runs)


def test_what_was_materialized_by_hand_goes_as_well(past: Past) -> None:
    """*Materialize* in the UI, and backfills: their runs belong to no job of ours."""
    old = by_hand(past.instance).run_id
    latest = by_hand(past.instance, tags={"dagster/backfill": "abcdefgh"}).run_id
    for run_id in (old, latest):
        past.age(run_id, 8)
    assert past.prune().runs == 1
    assert past.runs() == {latest}


def test_deleting_stops_when_its_time_is_over(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oldest first; the next run continues."""
    monkeypatch.setattr(run_history_pruning, "BATCH_RUNS", 1)
    runs = [past.flush(40 - number) for number in range(4)]
    done = past.prune(seconds=-1)
    assert (done.runs, done.complete) == (1, False)
    assert past.runs() == set(runs[1:])


def test_the_history_does_not_grow(past: Past, add_to_summary: Callable[[str], None]) -> None:
    """Day after day of runs, pruned each day: after the first week the database stays as large as it is."""
    run_id, per_day, sizes = past.flush(), 150, []
    with connect_dagster_storage(past.settings) as connection:
        for _ in range(16):
            insert_day(connection, run_id, per_day)
            connection.execute("UPDATE runs SET end_time = end_time - %s WHERE run_id <> %s", [DAY_SECONDS, run_id])
            prune_runs(connection, past.instance, WEEK, 60)
            connection.execute("VACUUM")
            sizes.append(table_bytes(connection))
        assert len(find_old_runs(connection, [], RunRetention(6, 30), time.time())) >= per_day - 1
    add_to_summary(
        f"Dagster's history, {per_day} runs a day, kept 7 days: {[bytes_ >> 20 for bytes_ in sizes]} MB day by day"
    )
    assert count_of_runs(past) <= per_day * 8 + 1
    assert sizes[15] < sizes[8] * 1.1


def count_of_runs(past: Past) -> int:
    """Count them as Dagster does."""
    return past.instance.get_runs_count()
