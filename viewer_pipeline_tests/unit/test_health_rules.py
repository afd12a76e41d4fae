"""The rules of /health: status and message for each measurement."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from viewer_pipeline import migrations
from viewer_pipeline.checks import CheckResult, Status
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.monitoring.celery_rules import evaluate_celery
from viewer_pipeline.monitoring.daemon_ids import DaemonIds
from viewer_pipeline.monitoring.dagster_rules import (
    DAEMONS,
    DAGSTER_CHECKS,
    DagsterDeadlines,
    daemon_check_name,
    dead_daemons,
    evaluate_dagster,
    evaluate_flush_runs,
    relate_last_flush_to_dagster,
)
from viewer_pipeline.monitoring.dagster_tables import (
    DagsterReading,
    FlushRun,
    Heartbeat,
    Instigator,
    Tick,
    WaitingRun,
    own_or_innermost_error,
)
from viewer_pipeline.monitoring.health_rules import (
    REVISION,
    WriteRefusal,
    degrade_if_restarted,
    evaluate_freshness,
    evaluate_last_flush,
    evaluate_marker_against_ledger,
    evaluate_postgres,
    evaluate_redis,
    evaluate_redis_memory,
    evaluate_subscriber,
    evaluate_unsettled,
)
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.celery_broker import BrokerReading
from viewer_pipeline.stores.postgres import IN_RECOVERY, READ_ONLY
from viewer_pipeline.time_formatting import format_age, format_duration, format_timestamp, tolerate_clock_skew
from viewer_pipeline_tests.support.check_results import by_name

NOW = 1_800_000_030.0  # half a minute after a full minute
LATER = DagsterDeadlines.of(Settings(), NOW, NOW - 3600)  # in a process that has run for long
EARLY = DagsterDeadlines.of(Settings(), NOW, NOW - 10)  # in one that started just now, perhaps together with Dagster


def instigator(
    ago: float, status: str = "SUCCESS", message: str = "", evaluated_ago: float | None = None
) -> Instigator:
    """Return a sensor or schedule that runs and ticked a while ago; `evaluated_ago`: the last tick without an error."""
    return Instigator(running=True, tick=Tick(status, NOW - ago, message), evaluated=NOW - (evaluated_ago or ago))


def dagster(**changes: Any) -> DagsterReading:
    """Return a reading of a healthy Dagster, with these changes."""
    healthy: dict[str, Any] = {
        "heartbeats": {name: Heartbeat(NOW - 5) for name in DAEMONS},
        "sensor": instigator(5),
        "sweep": instigator(30, "SKIPPED", "nothing to flush"),
        "runs": [FlushRun("r1", success=True, ended=NOW - 9)],
    }
    return DagsterReading(**{**healthy, **changes})


def heartbeats(*dead: str, ago: float = 300) -> dict[str, Heartbeat]:
    """Return heartbeats of all daemons, those of `dead` old."""
    return {name: Heartbeat(NOW - (ago if name in dead else 5)) for name in DAEMONS}


def evaluated(reading: DagsterReading | None, clock: DagsterDeadlines = LATER) -> dict[str, CheckResult]:
    """Return the results for Dagster by name."""
    return by_name(evaluate_dagster(reading, clock))


def failing(results: dict[str, CheckResult]) -> dict[str, str]:
    """Return the statuses that are not healthy; each of these results has a remedy."""
    assert [result for result in results.values() if not result.passed and not result.remedy] == []
    return {name: result.status for name, result in results.items() if not result.passed}


def test_healthy_dagster() -> None:
    """Every check has a result, with details."""
    results = evaluated(dagster())
    assert set(results) == set(DAGSTER_CHECKS)
    assert failing(results) == {}
    details = {"heartbeat_age_seconds": 5.0}
    assert results["daemon_sensor"] == CheckResult("daemon_sensor", "healthy", "last heartbeat 5 s ago", details)
    assert results["sweep"].details == {
        "running": True, "last_tick": "skipped", "seconds_since_tick": 30.0, "skip_reason": "nothing to flush"
    }  # fmt: skip
    assert results["flush_runs"].details == {"last_run": "r1", "seconds_since_last": 9.0}


@pytest.mark.parametrize(
    ("dead", "statuses"),
    [
        (["MONITORING"], {"daemon_monitoring": "degraded"}),
        (["SENSOR"], {"daemon_sensor": "degraded"}),
        (["SCHEDULER"], {"daemon_scheduler": "degraded"}),
        (["SENSOR", "SCHEDULER"], {"daemon_sensor": "unhealthy", "daemon_scheduler": "unhealthy"}),
        (["QUEUED_RUN_COORDINATOR"], {"daemon_queued_run_coordinator": "unhealthy"}),
        (
            ["QUEUED_RUN_COORDINATOR", "BACKFILL"],
            {"daemon_queued_run_coordinator": "unhealthy", "daemon_backfill": "degraded"},
        ),
    ],
)
def test_dead_daemons(dead: list[str], statuses: dict[str, str]) -> None:
    """Unhealthy where nothing can launch flushes any more, else degraded."""
    results = evaluated(dagster(heartbeats=heartbeats(*dead)))
    assert failing(results) == statuses
    assert results[daemon_check_name(dead[0])].message == "no heartbeat for 5 min"


def test_tolerance_of_heartbeats() -> None:
    """120 s, no more."""
    assert failing(evaluated(dagster(heartbeats=heartbeats("BACKFILL", ago=120)))) == {}
    assert failing(evaluated(dagster(heartbeats=heartbeats("BACKFILL", ago=121)))) == {"daemon_backfill": "degraded"}


def test_dagster_that_never_ran() -> None:
    """Degraded while it may be starting, then unhealthy."""
    early, later = evaluated(None, EARLY), evaluated(None)
    assert set(failing(early).values()) == {"degraded"}
    needed = {"daemon_sensor", "daemon_scheduler", "daemon_queued_run_coordinator", "sensor", "sweep"}
    assert {name for name, status in failing(later).items() if status == "unhealthy"} == needed
    assert later["daemon_sensor"].message == "Dagster has never run on this database"
    assert later["flush_runs"].message == "no flush run has ended yet"


def test_daemon_without_a_first_heartbeat() -> None:
    """Degraded in the first 120 s of the process, also the run coordinator."""
    name, beats = "daemon_queued_run_coordinator", heartbeats()
    del beats["QUEUED_RUN_COORDINATOR"]
    early, later = (evaluated(dagster(heartbeats=beats), clock)[name] for clock in (EARLY, LATER))
    assert (early.status, early.message) == ("degraded", "no heartbeat yet")
    assert (later.status, later.message) == ("unhealthy", "no heartbeat was ever recorded")


def test_daemon_that_reports_an_error() -> None:
    """It runs, and somebody should look."""
    beats = {**heartbeats(), "SENSOR": Heartbeat(NOW, "code location does not load")}
    results = evaluated(dagster(heartbeats=beats))
    assert failing(results) == {"daemon_sensor": "degraded"}
    assert results["daemon_sensor"].message == "runs, and reports an error: code location does not load"


def beats_of(daemon_id: str, ago: float, *names: str) -> dict[str, Heartbeat]:
    """Return heartbeats of one process, by default of all its daemons."""
    return {name: Heartbeat(NOW - ago, daemon_id=daemon_id) for name in names or DAEMONS}


def test_restarted_daemon() -> None:
    """It has another id. That is no second daemon, also while its first heartbeats replace the last ones."""
    ids = DaemonIds()
    old, new = beats_of("a", 25), beats_of("b", 1, "SENSOR")
    later = beats_of("c", 20)
    assert [ids.concurrent(beats, NOW) for beats in (old, old | new, beats_of("b", 2), later)] == [frozenset()] * 4


def test_two_daemons() -> None:
    """An id that comes back; or, in a single reading, heartbeats of two that would have been replaced at a start."""
    ids = DaemonIds()
    for beats in (beats_of("a", 1), beats_of("b", 1)):
        assert ids.concurrent(beats, NOW) == frozenset()
    assert ids.concurrent(beats_of("a", 1), NOW) == {"a", "b"}
    assert ids.concurrent(beats_of("a", 9), NOW) == {"a", "b"}  # reported for two minutes
    both = beats_of("a", 25) | beats_of("b", 6, "SENSOR")
    concurrent = DaemonIds().concurrent(both, NOW)
    assert concurrent == {"a", "b"}
    results = by_name(evaluate_dagster(dagster(), LATER, concurrent))
    assert failing(results) == {"single_daemon": "degraded"}
    assert results["single_daemon"].message == "2 Dagster daemons send heartbeats (a, b): each of them launches runs"


STOPPED = replace(instigator(5), running=False)


@pytest.mark.parametrize(
    ("age", "daemon", "status"),
    [
        (301.0, "unhealthy", "unhealthy"),
        (300.0, "unhealthy", "healthy"),
        (301.0, "degraded", "healthy"),
        (None, "unhealthy", "healthy"),
        (-99.0, "unhealthy", "unhealthy"),  # which is reported already
    ],
)
def test_last_flush_while_dagster_makes_none(age: float | None, daemon: Status, status: str) -> None:
    """An old one is unhealthy only then; nothing else changes."""
    flush = evaluate_last_flush(7, age)
    others = [CheckResult("postgres", "unhealthy", "refused"), CheckResult("daemon_sensor", daemon, "no heartbeat")]
    *same, last = relate_last_flush_to_dagster([*others, flush], 300)
    assert same == others
    assert last.status == status
    if status == "healthy" or age == -99:
        assert last == flush
    else:
        assert last.message == "flush 7 was committed 5 min ago, and Dagster makes no other now"
        assert last.remedy == "see the check daemon_sensor"


def test_instigators_stopped_in_the_ui() -> None:
    """One: degraded; both: nothing launches flushes."""
    results = evaluated(dagster(sensor=STOPPED))
    assert failing(results) == {"sensor": "degraded"}
    assert results["sensor"].message == "the sensor was stopped in Dagster's UI"
    results = evaluated(dagster(sensor=STOPPED, sweep=STOPPED), EARLY)
    assert failing(results) == {"sensor": "unhealthy", "sweep": "unhealthy"}
    assert results["sweep"].message == "the sweep schedule was stopped in Dagster's UI; nothing launches flushes"


def test_tick_that_failed() -> None:
    """Degraded, with the error."""
    results = evaluated(dagster(sensor=instigator(4, "FAILURE", "Redis does not answer", evaluated_ago=9)))
    assert failing(results) == {"sensor": "degraded"}
    assert results["sensor"].message == "the last tick of the sensor, 4 s ago, failed: Redis does not answer"
    assert results["sensor"].remedy.startswith("none if it passes: the next tick tries again;")  # it is not stopped


def test_ticks_that_keep_failing() -> None:
    """Of one: degraded. Of both, as long as a tick may be late: nothing launches flushes."""
    failed = instigator(4, "FAILURE", "no space left", evaluated_ago=300)
    assert failing(evaluated(dagster(sensor=failed))) == {"sensor": "degraded"}
    assert failing(evaluated(dagster(sensor=failed, sweep=instigator(4, "FAILURE", "", evaluated_ago=64)))) == {
        "sensor": "degraded",
        "sweep": "degraded",
    }
    for never in (failed, replace(failed, evaluated=None)):
        results = evaluated(dagster(sensor=failed, sweep=never))
        assert failing(results) == {"sensor": "unhealthy", "sweep": "unhealthy"}
        assert results["sweep"].message == "the last tick of the sweep schedule, 4 s ago, failed: no space left"


@pytest.mark.parametrize(
    ("sensor_ago", "sweep_ago", "statuses"),
    [
        (149, 30, {}),
        (151, 30, {"sensor": "degraded"}),  # 30 s between ticks, and the tolerance
        (5, 150, {}),
        (5, 210, {"sweep": "degraded"}),  # it was due in the minute before the last two
        (151, 210, {"sensor": "unhealthy", "sweep": "unhealthy"}),
    ],
)
def test_missing_ticks(sensor_ago: float, sweep_ago: float, statuses: dict[str, str]) -> None:
    """The code location does not load, for example: the daemon runs, and nothing is evaluated."""
    reading = dagster(
        sensor=instigator(sensor_ago),
        sweep=instigator(sweep_ago),
    )
    assert failing(evaluated(reading)) == statuses


SIX_HOURS = 21_600


def test_dagster_whose_timestamps_are_in_the_future() -> None:
    """Unhealthy: it launches nothing until the clock reaches them again. Up to a minute is tolerated."""
    future = instigator(-SIX_HOURS, "SKIPPED", "nothing to flush")
    results = evaluated(
        dagster(
            heartbeats={name: Heartbeat(NOW + SIX_HOURS) for name in DAEMONS},
            sensor=future,
            sweep=future,
            runs=[FlushRun("r1", success=True, ended=NOW + SIX_HOURS)],
        )
    )
    assert failing(results) == dict.fromkeys(set(DAGSTER_CHECKS) - {"single_daemon"}, "unhealthy")
    assert results["sweep"].message == (
        "the last tick of the sweep schedule is 6 h in the future:"
        " the clock of this machine or of the one that wrote it was set back"
    )
    assert results["sweep"].details["seconds_since_tick"] == -SIX_HOURS
    assert "restart Dagster's daemon" in results["sweep"].remedy
    assert dead_daemons({name: Heartbeat(NOW + SIX_HOURS) for name in DAEMONS}, NOW) == list(DAEMONS)
    waiting = evaluated(dagster(waiting=WaitingRun("r2", NOW + SIX_HOURS)))["flush_runs"]
    assert waiting.message.startswith("the request of a flush run is 6 h in the future")
    near = instigator(-60)
    assert failing(evaluated(dagster(heartbeats=heartbeats("SENSOR", ago=-60), sensor=near, sweep=near))) == {}


def test_servers_whose_timestamps_are_in_the_future() -> None:
    """Unhealthy, each with the same reason."""
    results = [
        evaluate_freshness(2, -SIX_HOURS, 300),
        evaluate_unsettled(1, -SIX_HOURS),
        evaluate_last_flush(3, -SIX_HOURS),
    ]
    assert {(result.status, result.message.partition(" is ")[2]) for result in results} == {
        ("unhealthy", format_age(-SIX_HOURS))
    }
    assert evaluate_last_flush(3, 300).message == "flush 3 was committed 5 min ago"
    assert evaluate_last_flush(0, None).message == "no flush yet"


def test_instigator_without_a_tick() -> None:
    """A daily sweep runs long before it ticks."""
    assert failing(evaluated(dagster(sweep=Instigator(running=True, tick=None, evaluated=None)))) == {}


def runs(*outcomes: bool) -> list[FlushRun]:
    """Return runs, newest first."""
    return [FlushRun(f"r{n}", success, NOW - 10 * n, "" if success else "error") for n, success in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("outcomes", "status", "message"),
    [
        ([], "healthy", "no flush run has ended yet"),
        ([True, False, False], "healthy", "the last flush run succeeded 0 s ago"),
        ([False, True, False], "degraded", "the last flush run failed: error"),
        ([False, False, True], "degraded", "the last 2 flush runs failed: error"),
        ([False, False], "degraded", "the last 2 flush runs failed: error"),
        ([False, False, False], "unhealthy", "the last 3 flush runs failed: error"),
    ],
)
def test_flush_runs(outcomes: list[bool], status: str, message: str) -> None:
    """One failure may be transient, three in a row are not."""
    result = evaluate_flush_runs(runs(*outcomes), None, LATER)
    assert (result.status, result.message) == (status, message)


def test_flush_run_that_does_not_start() -> None:
    """Unhealthy once it has waited for FRESHNESS_LIMIT_MS: no other is launched meanwhile, whatever the cause is."""
    assert failing(evaluated(dagster(waiting=WaitingRun("r2", NOW - 300)))) == {}
    result = evaluated(dagster(waiting=WaitingRun("r2", NOW - 301)))["flush_runs"]
    assert result.status == "unhealthy"
    assert result.message == "a flush run was requested 5 min ago and has not started; it blocks all others"
    assert result.details == {"waiting_run": "r2", "seconds_since_request": 301.0}
    assert result.remedy


@pytest.mark.parametrize(
    ("info", "status", "message"),
    [
        ({"maxmemory_policy": "noeviction"}, "healthy", "maxmemory-policy noeviction: no counter is evicted"),
        ({"maxmemory_policy": "volatile-lru"}, "healthy", "maxmemory-policy volatile-lru evicts only keys that expire"),
        ({"maxmemory_policy": "allkeys-lru"}, "degraded", "maxmemory-policy allkeys-lru evicts counters"),
        ({"maxmemory_policy": "allkeys-random"}, "degraded", "maxmemory-policy allkeys-random evicts counters"),
        ({}, "unknown", "maxmemory-policy is unknown"),
        ({"maxmemory_policy": "noeviction", "maxmemory": 1250, "used_memory": 999}, "healthy", "maxmemory-policy"),
        ({"maxmemory_policy": "noeviction", "maxmemory": 1250, "used_memory": 1000}, "degraded", "80% of maxmemory"),
        ({"maxmemory_policy": "volatile-lru", "maxmemory": 1000, "used_memory": 1000}, "healthy", "maxmemory-policy"),
    ],
)
def test_redis_memory(info: dict[str, Any], status: str, message: str) -> None:
    """Eviction of counters, and a memory that is nearly full without eviction."""
    result = evaluate_redis_memory(info)
    assert (result.status, bool(result.remedy)) == (status, status != "healthy")
    assert result.message.startswith(message)


def test_redis_that_refuses_writes() -> None:
    """A replica by its role, also one that accepts writes; else with the error of the test write."""
    replica = {"role": "slave", "master_host": "a", "master_port": 1}
    result = evaluate_redis(replica, 1.0, None)
    assert (result.status, result.message) == ("unhealthy", "Redis refuses writes: it is a replica of a:1")
    result = evaluate_redis({"role": "master"}, 1.0, WriteRefusal("Redis refuses writes: OOM", ""))
    assert (result.status, result.message) == ("unhealthy", "Redis refuses writes: OOM")
    result = evaluate_redis({}, 1.0, None)
    assert result == CheckResult("redis", "healthy", "answers in 1.0 ms and accepts writes", {"round_trip_ms": 1.0})


@pytest.mark.parametrize(
    ("refusal", "revision", "message"),
    [
        (IN_RECOVERY, REVISION, "PostgreSQL refuses writes: it is in recovery (a standby)"),
        (READ_ONLY, REVISION, "PostgreSQL refuses writes: its transactions are read-only"),
        ("", "", "the schema `viewer` is missing"),
        ("", "0001", f"the schema `viewer` is at revision 0001, and {REVISION} is needed"),
    ],
)
def test_postgres_that_cannot_commit(refusal: str, revision: str, message: str) -> None:
    """Unhealthy, with the reason and a remedy."""
    result = evaluate_postgres(refusal, revision, 1)
    assert (result.status, result.message, bool(result.remedy)) == ("unhealthy", message, True)


def test_revision_is_that_of_the_migrations() -> None:
    """A newer schema is healthy, and reported: the database is migrated before the workers are."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION
    result = evaluate_postgres("", "9999", 1)
    assert (result.status, f"revision 9999, newer than {REVISION}" in result.message) == ("healthy", True)


@pytest.mark.parametrize(
    ("stats", "status", "message"),
    [
        (SubscriberStats(), "degraded", "starting; not subscribed yet"),
        (SubscriberStats(state="listening"), "healthy", "listening; no message yet"),
        (SubscriberStats(state="standby"), "healthy", "standing by: another worker folds"),
        (
            SubscriberStats(state="reconnecting", reason="closed"),
            "unhealthy",
            "reconnecting: closed; messages that are published now are missed",
        ),
        (SubscriberStats(state="listening", refusal_reason="OOM"), "unhealthy", "received views stay in memory: OOM"),
        (SubscriberStats(state="stopping"), "degraded", "stopping; not subscribed yet"),
    ],
)
def test_subscriber(stats: SubscriberStats, status: str, message: str) -> None:
    """Each of its states."""
    result = evaluate_subscriber(stats)
    assert result.status == status
    assert result.message.startswith(message)


def test_subscriber_reports_the_age_of_the_last_message() -> None:
    """In the message and in the details."""
    result = evaluate_subscriber(SubscriberStats(state="listening", last_message_monotonic=time.monotonic() - 300))
    assert result.message == "listening; last message 5 min ago"
    assert result.details["seconds_since_message"] >= 300


def test_freshness() -> None:
    """The age of the oldest pending view against its limit."""
    assert evaluate_freshness(0, None, 300).message == "nothing announced is pending"
    details = {"pending_vods": 2, "oldest_pending_seconds": 300, "limit_seconds": 300}
    expected = CheckResult("freshness", "healthy", "2 VODs pending, the oldest for 5 min", details)
    assert evaluate_freshness(2, 300, 300) == expected
    old = evaluate_freshness(2, 301, 300)
    message = "2 VODs pending, the oldest for 5 min: no flush has taken them within 5 min"
    assert (old.status, old.message) == ("unhealthy", message)


@pytest.mark.parametrize(
    ("marker", "last", "status", "message"),
    [
        (None, 0, "healthy", "the marker is not ahead"),
        (None, 3, "degraded", "Redis was emptied or replaced"),
        (Marker(3, 1, 1), 3, "healthy", "the marker is not ahead"),
        (Marker(2, 1, 1), 3, "healthy", "the marker is not ahead"),
        (Marker(4, 1, 1), 3, "unhealthy", "PostgreSQL was rolled back, e.g. restored from a backup"),
    ],
)
def test_marker(marker: Marker | None, last: int, status: str, message: str) -> None:
    """A marker behind the ledger is normal; one ahead of it, or none, is not."""
    result = evaluate_marker_against_ledger(marker, LastFlush(last, 1 if last else 0))
    assert (result.status, bool(result.remedy)) == (status, status != "healthy")
    assert result.message.startswith(message)


def test_marker_of_a_refused_pipeline() -> None:
    """The refusal comes before everything else."""
    result = evaluate_marker_against_ledger(None, LastFlush(3, 1), "the counters belong to another database")
    assert (result.status, result.message) == ("unhealthy", "the counters belong to another database")


@pytest.mark.parametrize(("age", "status"), [(None, "healthy"), (59.0, "healthy"), (60.0, "degraded")])
def test_unsettled(age: float | None, status: str) -> None:
    """The next run has a minute to settle."""
    assert evaluate_unsettled(0 if age is None else 2, age).status == status


@pytest.mark.parametrize(("seconds", "text"), [(119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")])
def test_format_duration(seconds: float, text: str) -> None:
    """In one unit, rounded."""
    assert format_duration(seconds) == text


def test_format_age() -> None:
    """A moment in the future is reported, and why, beyond one minute: clocks of several machines differ a little."""
    assert [format_age(tolerate_clock_skew(age)) for age in (300, 0, -60)] == ["5 min ago", "0 s ago", "0 s ago"]
    reason = "the clock of this machine or of the one that wrote it was set back"
    assert format_age(tolerate_clock_skew(-21_600)) == f"6 h in the future: {reason}"


def test_format_timestamp() -> None:
    """ISO 8601 in UTC, with milliseconds and Z."""
    moment = datetime(2026, 11, 24, 9, 30, 0, 123_456, timezone(timedelta(hours=1)))
    assert format_timestamp(moment) == "2026-11-24T08:30:00.123Z"


def test_error_message_of_dagster() -> None:
    """The first error of ours in the chain, else the innermost; one line."""
    ours = {"message": "viewer_pipeline.errors.SchemaMissing: run migrate: x\n", "cause": {"message": "pg: inner"}}
    assert own_or_innermost_error({"message": "Exceeded max_retries\n", "cause": ours}) == "run migrate: x"
    cause = {"message": "KeyError: 'a'\nmore", "cause": None}
    assert own_or_innermost_error({"message": "outer", "cause": cause}) == "KeyError: 'a'"
    assert own_or_innermost_error({"message": None, "cls_name": "Odd"}) == "Odd"
    grpc = {"message": "grpc._channel._InactiveRpcError: <_InactiveRpcError of RPC that terminated with:\n\tstatus"}
    unreachable = {"message": "Unreachable: no user code server\n", "cause": grpc}
    assert own_or_innermost_error({"message": "outer", "cause": unreachable}) == "Unreachable: no user code server"


@pytest.mark.parametrize(
    ("up_seconds", "process_seconds", "status"),
    [
        (5, 100, "degraded"),
        (5, 6.1, "degraded"),
        (5, 5.9, "healthy"),
        (0, 0.3, "healthy"),
        (61, 100, "healthy"),
        (None, 100, "healthy"),
    ],
)
def test_server_that_restarted(up_seconds: float | None, process_seconds: float, status: str) -> None:
    """Degraded for a minute, and only if the process is older than the server."""
    result = degrade_if_restarted(CheckResult("redis", "healthy", "answers"), up_seconds, process_seconds)
    assert result.status == status
    assert result.message == ("answers; restarted 5 s ago" if status == "degraded" else "answers")


def test_restart_does_not_hide_an_error() -> None:
    """A result that is worse stays."""
    unhealthy = CheckResult("redis", "unhealthy", "a replica")
    assert degrade_if_restarted(unhealthy, 1, 100) is unhealthy


@pytest.mark.parametrize(
    ("workers", "waiting", "status", "message"),
    [
        ((), 0, "unhealthy", "no Celery worker executes runs; 0 runs waiting"),
        (("one@host",), 1, "healthy", "1 worker; 1 run waiting"),
        (("one@host", "two@other"), 0, "healthy", "2 workers; 0 runs waiting"),
    ],
)
def test_celery_workers(workers: tuple[str, ...], waiting: int, status: Status, message: str) -> None:
    """Without any, no run is executed. Runs that wait while there are workers only show that these are busy."""
    result = evaluate_celery(BrokerReading(workers, waiting))
    assert (result.status, result.message) == (status, message)
    assert result.details == {"workers": list(workers), "waiting_runs": waiting}
    assert bool(result.remedy) == (status == "unhealthy")
