"""Dagster's tables read by SQL, compared with its own API: fails when an upgrade changes them."""

from __future__ import annotations

import os
import time

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.scheduler.instigation import TickStatus

from viewer_pipeline.cli.in_process_runs import run_flush
from viewer_pipeline.definitions import defs
from viewer_pipeline.errors import PostgresFailed
from viewer_pipeline.monitoring.dagster_rules import DAEMONS
from viewer_pipeline.monitoring.dagster_tables import (
    JOB,
    SENSOR,
    SWEEP,
    DagsterReading,
    Tick,
    WaitingRun,
    read_dagster,
    read_heartbeats,
    read_running_runs,
)
from viewer_pipeline.orchestration.flush_ops import FlushMode
from viewer_pipeline.orchestration.flush_sensor import view_count_updates_sensor
from viewer_pipeline.orchestration.sweep_and_rollup_schedules import sweep_schedule
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld, error_of, origin, selector_id
from viewer_pipeline_tests.support.world import World

SECRET = "s3cret:with@signs"
OURS = f"viewer_pipeline.errors.RedisUnavailable: Redis does not answer: redis://:{SECRET}@host:1/0: refused\n"


def reading(settings: Settings) -> DagsterReading:
    """Read tables that exist."""
    reading = read_dagster(settings)
    assert reading is not None
    return reading


def test_names_are_those_of_the_definitions() -> None:
    """The worker does not import Dagster, so it repeats them."""
    assert (view_count_updates_sensor.name, sweep_schedule.name) == (SENSOR, SWEEP)
    assert defs.resolve_job_def(JOB).name == JOB


def test_daemons_are_those_that_dagster_yaml_requires(dagster: DagsterWorld) -> None:
    """No more, no fewer."""
    assert sorted(DAEMONS) == sorted(dagster.instance.get_required_daemon_types())


def test_reading_is_none_where_dagster_never_ran(dagster_settings: Settings) -> None:
    """The schema is there, its tables are not."""
    assert read_dagster(dagster_settings) is None


@pytest.mark.usefixtures("dagster")
def test_role_without_usage(dagster_settings: Settings, world: World) -> None:
    """An error, and not "Dagster has never run": the tables exist, although this role does not see them."""
    role = "narrow_" + os.urandom(6).hex()
    world.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        _, _, address = dagster_settings.require_database_url().rpartition("@")
        narrow = dagster_settings.copy_unvalidated(database_url=f"postgresql://{role}:secret@{address}")
        for read in (read_dagster, read_heartbeats, read_running_runs):
            with pytest.raises(PostgresFailed, match="has no USAGE on schema dagster"):
                read(narrow)
    finally:
        world.execute(f"DROP ROLE {role}")


def test_empty_instance(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """Tables without rows."""
    assert dagster.instance.get_daemon_heartbeats() == {}
    assert reading(dagster_settings) == DagsterReading({}, None, None, [])


def test_heartbeats(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """Time and error of each, as Dagster itself reads them."""
    dagster.beat("SENSOR", 300)
    dagster.beat("SCHEDULER", error=OURS)
    api = dagster.instance.get_daemon_heartbeats()
    state = reading(dagster_settings).heartbeats
    assert {name: beat.at for name, beat in state.items()} == {name: beat.timestamp for name, beat in api.items()}
    assert {name: beat.daemon_id for name, beat in state.items()} == {
        name: beat.daemon_id for name, beat in api.items()
    }
    assert state["SENSOR"].error == ""
    assert state["SCHEDULER"].error == "Redis does not answer: redis://:***@host:1/0: refused"


@pytest.mark.parametrize(("sensor", "sweep"), [(True, True), (False, True), (True, False), (False, False)])
def test_running_or_stopped(dagster: DagsterWorld, dagster_settings: Settings, sensor: bool, sweep: bool) -> None:
    """As the UI shows it; before the first tick there is none."""
    dagster.register(sensor=sensor, sweep=sweep)
    api = {state.name: state.is_running for state in dagster.instance.all_instigator_state()}
    state = reading(dagster_settings)
    assert state.sensor is not None
    assert state.sweep is not None
    assert (state.sensor.tick, state.sweep.tick) == (None, None)
    assert {SENSOR: state.sensor.running, SWEEP: state.sweep.running} == api == {SENSOR: sensor, SWEEP: sweep}


def test_last_ticks(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """The newest that has ended of each, with skip reason or error."""
    dagster.register()
    dagster.tick(SENSOR, 60, error=error_of("old"))
    dagster.tick(SENSOR, 5, skip="no VOD was announced")
    dagster.tick(SWEEP, 5, error=error_of("Error occurred during the evaluation\n", error_of(OURS)))
    dagster.tick(SWEEP, 90, skip="older")
    state = reading(dagster_settings)
    for name, item in ((SENSOR, state.sensor), (SWEEP, state.sweep)):
        (api,) = dagster.instance.get_ticks(origin(name).get_id(), selector_id(name), limit=1)
        assert item is not None
        assert item.tick is not None
        assert (item.tick.status, item.tick.at) == (api.status.value, api.timestamp)
    assert state.sensor is not None
    assert state.sensor.tick is not None
    assert state.sensor.tick.message == "no VOD was announced"
    assert state.sweep is not None
    assert state.sweep.tick == Tick(
        "FAILURE",
        state.sweep.tick.at if state.sweep.tick else 0,
        "Redis does not answer: redis://:***@host:1/0: refused",
    )


def test_last_tick_without_an_error(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """Read from the ticks before those that failed; none where all failed."""
    dagster.register()
    dagster.tick(SENSOR, 99, skip="no VOD was announced")
    for name, ago in ((SENSOR, 60), (SENSOR, 5), (SWEEP, 5)):
        dagster.tick(name, ago, error=error_of("no space left"))
    state = reading(dagster_settings)
    assert state.sensor is not None
    assert state.sweep is not None
    ticks = dagster.instance.get_ticks(origin(SENSOR).get_id(), selector_id(SENSOR))
    assert [state.sensor.evaluated] == [tick.timestamp for tick in ticks if tick.status is TickStatus.SKIPPED]
    assert (state.sweep.tick is None, state.sweep.evaluated) == (False, None)


def test_run_that_waits_for_its_start(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """The first of those that are queued, with the time of its request."""
    dagster.run(dg.DagsterRunStatus.SUCCESS)
    assert reading(dagster_settings).waiting is None
    first, _ = dagster.queue_run(), dagster.queue_run()
    waiting = reading(dagster_settings).waiting
    assert waiting == WaitingRun(first, dagster.instance.all_logs(first)[0].timestamp)
    assert time.time() - waiting.requested < 60


def test_runs_that_succeed_and_fail(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """A real flush, then one without Redis: newest first, and its error in one line without the password."""
    good = run_flush(dagster.instance, dagster_settings, FlushMode.sweep, trigger="test")
    without_redis = dagster_settings.copy_unvalidated(redis_url=f"redis://:{SECRET}@127.0.0.1:1/0")
    bad = run_flush(dagster.instance, without_redis, FlushMode.sweep, trigger="test")
    runs = reading(dagster_settings).runs
    records = dagster.instance.get_run_records(dg.RunsFilter(job_name=JOB))
    assert [(run.run_id, run.ended) for run in runs] == [(r.dagster_run.run_id, r.end_time) for r in records]
    assert [(run.run_id, run.success) for run in runs] == [(bad.run_id, False), (good.run_id, True)]
    assert runs[0].error.startswith("Redis does not answer: redis://:***@127.0.0.1:1/0: ")
    assert SECRET not in runs[0].error
    assert time.time() - runs[0].ended < 60


def test_run_whose_process_ended(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """Dagster recorded no exception, but a message."""
    dagster.run(dg.DagsterRunStatus.SUCCESS)
    dagster.run(dg.DagsterRunStatus.FAILURE)
    runs = reading(dagster_settings).runs
    assert [(run.success, run.error) for run in runs] == [(False, "its process ended"), (True, "")]


def test_run_that_cannot_be_launched(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """Dagster records the exception of the launcher in an event before the failure, which has no reason."""
    run = dagster.instance.get_run_by_id(dagster.queue_run())
    assert run is not None
    for message in ("an earlier attempt", OURS):
        data = EngineEventData.engine_error(error_of(message))
        dagster.instance.report_engine_event("cannot be launched", run, data)
    dagster.instance.report_run_failed(run)
    assert reading(dagster_settings).runs[0].error == "Redis does not answer: redis://:***@host:1/0: refused"


def test_dagster_storage_of_its_own(dagster_settings: Settings, database_url: str, dagster: DagsterWorld) -> None:
    """DAGSTER_DATABASE_URL is taken as it is: here with the schema among its options."""
    dagster.beat("SENSOR")
    elsewhere = f"{database_url}?options=-csearch_path%3Ddagster"
    state = reading(dagster_settings.copy_unvalidated(dagster_database_url=elsewhere))
    assert list(state.heartbeats) == ["SENSOR"]
    assert read_dagster(dagster_settings.copy_unvalidated(dagster_database_url=database_url)) is None
