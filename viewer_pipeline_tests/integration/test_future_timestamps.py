"""What a clock that was ahead, or was set back, leaves in Dagster's storage and in the ledger."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import dagster as dg
import psycopg
import redis
from dagster._core.scheduler.instigation import ScheduleInstigatorData, SensorInstigatorData

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.monitoring.doctor.clock_skew import check_clocks
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.orchestration.flush_sensor import view_count_updates_sensor
from viewer_pipeline.orchestration.future_timestamps import MovedTimestamps, move_or_delete_future_timestamps
from viewer_pipeline.orchestration.sweep_and_rollup_schedules import sweep_schedule
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.dagster_world import DagsterWorld, origin, selector_id
from viewer_pipeline_tests.support.world import World

SIX_HOURS = 21_600


def leave_future(dagster: DagsterWorld) -> None:
    """Write what sensor, schedule and a run leave behind when the clock is set back by six hours."""
    future = time.time() + SIX_HOURS
    dagster.register()
    for state in dagster.instance.all_instigator_state():
        data = (
            SensorInstigatorData(last_tick_start_timestamp=future, cursor="kept")
            if isinstance(state.instigator_data, SensorInstigatorData)
            else ScheduleInstigatorData("* * * * *", future - 60, future)
        )
        dagster.instance.update_instigator_state(state.with_data(data))
    dagster.tick(sweep_schedule.name, ago=30, skip="past")
    dagster.tick(sweep_schedule.name, ago=-SIX_HOURS, skip="future")
    dagster.tick(view_count_updates_sensor.name, ago=-SIX_HOURS, skip="future")


def test_timestamps_of_dagster_are_moved_to_now(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """So that everything is due again. Past ticks, cursors and ended runs stay; a second call changes nothing."""
    leave_future(dagster)
    dagster.run(dg.DagsterRunStatus.SUCCESS)
    now = time.time()
    assert move_or_delete_future_timestamps(dagster_settings, dagster.instance, now) == MovedTimestamps(2, 2, 0)
    ticks = dagster.instance.get_ticks(origin(sweep_schedule.name).get_id(), selector_id(sweep_schedule.name))
    assert [tick.skip_reason for tick in ticks] == ["past"]
    data = {type(state.instigator_data): state.instigator_data for state in dagster.instance.all_instigator_state()}
    assert data[SensorInstigatorData] == SensorInstigatorData(last_tick_start_timestamp=now, cursor="kept")
    assert data[ScheduleInstigatorData] == ScheduleInstigatorData("* * * * *", now, now)
    assert not any(move_or_delete_future_timestamps(dagster_settings, dagster.instance, now))


def test_maximum_runtime_of_active_runs_begins_again(dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """A run that hangs while the clock is set back would block the others for hours."""
    now, future = time.time(), time.time() + SIX_HOURS
    run_id = dagster.run(dg.DagsterRunStatus.SUCCESS)
    with psycopg.connect(dagster_settings.require_database_url()) as connection:
        connection.execute("UPDATE dagster.runs SET status = 'STARTED', start_time = %s", [future])
    assert move_or_delete_future_timestamps(dagster_settings, dagster.instance, now) == MovedTimestamps(0, 0, 1)
    record = dagster.instance.get_run_record_by_id(run_id)
    assert record is not None
    assert record.start_time == now


def clock_check(settings: Settings) -> CheckResult:
    """Return the result of the doctor."""
    with closing(HealthProbes(settings)) as probes:
        return check_clocks(settings, probes.store, probes.ledger)


def test_doctor_reports_timestamps_in_the_future(
    dagster: DagsterWorld, dagster_settings: Settings, world: World
) -> None:
    """Of Dagster's ticks and of the ledger, as long as they are in the future; less than a minute is tolerated."""
    assert clock_check(dagster_settings).status == "healthy"
    leave_future(dagster)
    check = clock_check(dagster_settings)
    assert (check.status, check.details["future_ticks"]) == ("unhealthy", 2)
    move_or_delete_future_timestamps(dagster_settings, dagster.instance, time.time())
    world.send("a")
    world.flush()
    assert clock_check(dagster_settings).status == "healthy"
    with psycopg.connect(dagster_settings.require_database_url()) as connection:
        connection.execute("UPDATE viewer.flush SET committed_at = now() + interval '6 hours'")
    check = clock_check(dagster_settings)
    assert (check.status, check.details["future_flushes"]) == ("unhealthy", 1)
    assert check.message.startswith("1 flush of the ledger and 0 ticks of Dagster in the future: the clock of this")


def test_health_reports_timestamps_in_the_future(dagster_settings: Settings, world: World, client: redis.Redis) -> None:
    """Of the last flush and of the oldest announcement; the lease of another clock is not held."""
    world.send("a")
    world.flush()
    with psycopg.connect(dagster_settings.require_database_url()) as connection:
        connection.execute("UPDATE viewer.flush SET committed_at = now() + interval '6 hours'")
    future_ms = 1000 * (datetime.now(UTC) + timedelta(hours=6)).timestamp()
    client.zadd("viewer:changed", {"b": future_ms})
    client.hset("viewer:subscriber", mapping={"expires": int(future_ms), "last_message": int(future_ms)})
    with closing(HealthProbes(dagster_settings)) as probes:
        results = by_name([*probes.check_settling(), *probes.check_freshness()])
        (subscriber,) = probes.health_checks()[-1].probe()[:1]
    for result in (results["last_flush"], results["freshness"], subscriber):
        assert result.status == "unhealthy"
        assert " is 6 h in the future: the clock of this machine or of the one that wrote it" in result.message
    assert subscriber.details["holder"] is None
