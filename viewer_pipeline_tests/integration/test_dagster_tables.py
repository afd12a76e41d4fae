"""Dagster's tables read by SQL, held to what its own API says of them: an upgrade that changes them goes red here."""

from __future__ import annotations

import os
import time

import dagster as dg
import pytest

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
    read_dagster,
    read_heartbeats,
    read_running,
)
from viewer_pipeline.orchestration.ops import FlushMode
from viewer_pipeline.orchestration.schedules import sweep_schedule
from viewer_pipeline.orchestration.sensors import view_count_updates_sensor
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld, error_of, origin, selector_id
from viewer_pipeline_tests.support.world import World

SECRET = "s3cret:with@signs"
OURS = f"viewer_pipeline.errors.RedisUnavailable: Redis does not answer: redis://:{SECRET}@host:1/0: refused\n"


def reading(settings: Settings) -> DagsterReading:
    """Read; there are tables."""
    found = read_dagster(settings)
    assert found is not None
    return found


def test_names_are_those_of_the_definitions() -> None:
    """The worker does not import Dagster, so it writes them once more."""
    assert (view_count_updates_sensor.name, sweep_schedule.name) == (SENSOR, SWEEP)
    assert defs.resolve_job_def(JOB).name == JOB


def test_daemons_are_those_that_dagster_yaml_requires(dagster: DagsterWorld) -> None:
    """No more, no fewer."""
    assert sorted(DAEMONS) == sorted(dagster.instance.get_required_daemon_types())


def test_nothing_where_dagster_never_ran(dagster_settings: Settings) -> None:
    """The schema is there, its tables are not."""
    assert read_dagster(dagster_settings) is None


@pytest.mark.usefixtures("dagster")
def test_a_role_that_may_not_look(dagster_settings: Settings, world: World) -> None:
    """It says so, and not that Dagster has never run: tables that one may not see are there all the same."""
    role = "narrow_" + os.urandom(6).hex()
    world.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        _, _, address = dagster_settings.require_database_url().rpartition("@")
        narrow = dagster_settings.changed(database_url=f"postgresql://{role}:secret@{address}")
        for read in (read_dagster, read_heartbeats, read_running):
            with pytest.raises(PostgresFailed, match="this role has no USAGE on schema dagster"):
                read(narrow)
    finally:
        world.execute(f"DROP ROLE {role}")


def test_an_empty_instance(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """Tables without rows."""
    assert dagster.instance.get_daemon_heartbeats() == {}
    assert reading(dagster_settings) == DagsterReading({}, None, None, [])


def test_heartbeats(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """Time and complaint of each, as Dagster itself reads them."""
    dagster.beat("SENSOR", 300)
    dagster.beat("SCHEDULER", error=OURS)
    api = dagster.instance.get_daemon_heartbeats()
    found = reading(dagster_settings).heartbeats
    assert {name: beat.at for name, beat in found.items()} == {name: beat.timestamp for name, beat in api.items()}
    assert found["SENSOR"].error == ""
    assert found["SCHEDULER"].error == "Redis does not answer: redis://:***@host:1/0: refused"


@pytest.mark.parametrize(("sensor", "sweep"), [(True, True), (False, True), (True, False), (False, False)])
def test_running_or_stopped(dagster: DagsterWorld, dagster_settings: Settings, sensor: bool, sweep: bool) -> None:
    """As the UI shows it; before the first tick there is none."""
    dagster.register(sensor=sensor, sweep=sweep)
    api = {state.name: state.is_running for state in dagster.instance.all_instigator_state()}
    found = reading(dagster_settings)
    assert found.sensor is not None
    assert found.sweep is not None
    assert (found.sensor.tick, found.sweep.tick) == (None, None)
    assert {SENSOR: found.sensor.running, SWEEP: found.sweep.running} == api == {SENSOR: sensor, SWEEP: sweep}


def test_last_ticks(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """The newest that has ended of each, with skip reason or error."""
    dagster.register()
    dagster.tick(SENSOR, 60, error=error_of("old"))
    dagster.tick(SENSOR, 5, skip="no VOD was announced")
    dagster.tick(SWEEP, 5, error=error_of("Error occurred during the evaluation\n", error_of(OURS)))
    dagster.tick(SWEEP, 90, skip="older")
    found = reading(dagster_settings)
    for name, one in ((SENSOR, found.sensor), (SWEEP, found.sweep)):
        (api,) = dagster.instance.get_ticks(origin(name).get_id(), selector_id(name), limit=1)
        assert one is not None
        assert one.tick is not None
        assert (one.tick.status, one.tick.at) == (api.status.value, api.timestamp)
    assert found.sensor is not None
    assert found.sensor.tick is not None
    assert found.sensor.tick.said == "no VOD was announced"
    assert found.sweep is not None
    assert found.sweep.tick == Tick(
        "FAILURE",
        found.sweep.tick.at if found.sweep.tick else 0,
        "Redis does not answer: redis://:***@host:1/0: refused",
    )


def test_runs_that_succeed_and_fail(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """A real flush, then one without Redis: newest first, and why it failed in one line without the password."""
    good = run_flush(dagster.instance, dagster_settings, FlushMode.sweep, trigger="test")
    without_redis = dagster_settings.changed(redis_url=f"redis://:{SECRET}@127.0.0.1:1/0")
    bad = run_flush(dagster.instance, without_redis, FlushMode.sweep, trigger="test")
    found = reading(dagster_settings).runs
    records = dagster.instance.get_run_records(dg.RunsFilter(job_name=JOB))
    assert [(run.run_id, run.ended) for run in found] == [(r.dagster_run.run_id, r.end_time) for r in records]
    assert [(run.run_id, run.success) for run in found] == [(bad.run_id, False), (good.run_id, True)]
    assert found[0].why.startswith("Redis does not answer: redis://:***@127.0.0.1:1/0: ")
    assert SECRET not in found[0].why
    assert time.time() - found[0].ended < 60


def test_a_run_whose_process_ended(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """It has no error, but a reason."""
    dagster.run(dg.DagsterRunStatus.SUCCESS)
    dagster.run(dg.DagsterRunStatus.FAILURE)
    found = reading(dagster_settings).runs
    assert [(run.success, run.why) for run in found] == [(False, "its process ended"), (True, "")]


def test_dagster_storage_of_its_own(dagster_settings: Settings, database_url: str, dagster: DagsterWorld) -> None:
    """DAGSTER_DATABASE_URL is taken as it is: here with the schema among its options."""
    dagster.beat("SENSOR")
    elsewhere = f"{database_url}?options=-csearch_path%3Ddagster"
    found = reading(dagster_settings.changed(dagster_database_url=elsewhere))
    assert list(found.heartbeats) == ["SENSOR"]
    assert read_dagster(dagster_settings.changed(dagster_database_url=database_url)) is None
