"""`viewer-pipeline status`: its lines, its JSON, and the reasons of a stall."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import redis

from viewer_pipeline.home_lock_and_server_urls import (
    SERVER_LOGS,
    SERVERS_FILE,
    SETTINGS,
    STARTED_AT,
    STARTING,
    lock_home_directory,
)
from viewer_pipeline.monitoring import status as status_module
from viewer_pipeline.monitoring.bounded_probe import MIN_INTERVAL_SECONDS
from viewer_pipeline.monitoring.dagster_rules import DAEMONS, daemon_check_name
from viewer_pipeline.monitoring.dagster_tables import SENSOR, SWEEP
from viewer_pipeline.monitoring.probes import REACHABLE
from viewer_pipeline.monitoring.status import StatusReader, read_status
from viewer_pipeline.monitoring.status_report import render_status
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline_tests.support.dagster_world import DagsterWorld, error_of
from viewer_pipeline_tests.support.subscribers import SubscriberThread
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

SECRET = "s3cret:with@signs"
UNLIMITED = 10_000  # columns
STATUS_SECONDS = status_module.STATUS_SECONDS  # for a server that hangs
pytestmark = pytest.mark.usefixtures("enough_time_for_status")


def listens(client: redis.Redis, *, left_ms: int = 6000, message_ago_ms: int = 3000) -> None:
    """Put the lease of a worker into Redis."""
    now = time.time_ns() // 1_000_000
    client.hset("viewer:subscriber", mapping={"holder": "token", "worker": "host:7"})
    client.hset("viewer:subscriber", mapping={"expires": now + left_ms, "last_message": now - message_ago_ms})


def lines_of(settings: Settings) -> dict[str, str]:
    """Return the printed lines by the word they begin with; the one of a stall has all its lines."""
    output = render_status(read_status(settings), UNLIMITED).splitlines()
    label = label_width(output)
    lines = {line[:label].strip(): line[label:] for line in output if line[:label].strip()}
    for heading in {"idle", "waiting", "stalled", "never ran"} & lines.keys():
        start = next(number for number, line in enumerate(output) if line.startswith(heading))
        lines[heading] = "\n".join(line[label:].removeprefix("- ") for line in output[start:])
    return lines


def label_width(output: list[str]) -> int:
    """Return how many characters are in front of each text."""
    return len(output[0]) - len(output[0].removeprefix("status").lstrip())


def stall_reasons_of(settings: Settings) -> list[str]:
    """Return the reasons, without the heading."""
    return list(read_status(settings).stall_reasons[1:])


@pytest.fixture
def well(dagster: DagsterWorld, client: redis.Redis) -> DagsterWorld:
    """Dagster and a worker at work, and nothing to do."""
    dagster.beat_all()
    dagster.register()
    dagster.tick(SENSOR, 3, skip="no VOD was announced since the last flush")
    dagster.tick(SWEEP, 20, skip="no key vod:views:* holds views: nothing to flush")
    listens(client)
    return dagster


@pytest.mark.usefixtures("well")
def test_status_without_views(dagster_settings: Settings) -> None:
    """All is well: the reasons are the skip reasons of sensor and sweep, and that nothing is pending."""
    lines = lines_of(dagster_settings)
    assert lines["subscriber"].startswith("host:7 listens; last message ")
    assert lines["daemons"] == "all 6 of Dagster are running"
    assert lines["sensor"].endswith("s ago")
    assert lines["runs"] == "no flush run has ended yet"
    reasons = lines["idle"].splitlines()
    assert reasons[0] == "nothing was persisted so far:"
    assert reasons[1].startswith("the sensor skipped ")
    assert reasons[1].endswith(" ago: no VOD was announced since the last flush")
    assert reasons[2].endswith(" ago: no key vod:views:* holds views: nothing to flush")
    assert reasons[3].startswith("nothing is pending: no VOD is announced, and the last message came ")
    assert len(reasons) == 4


@pytest.mark.usefixtures("well")
def test_idle_is_no_stall(dagster_settings: Settings) -> None:
    """All works and nothing is pending: the same reasons, under another word."""
    with SubscriberThread(dagster_settings):
        wait_until(lambda: read_status(dagster_settings).checks["subscriber"].passed, 30, "a worker listens")
        lines = lines_of(dagster_settings)
    assert lines["idle"].startswith("nothing was persisted so far:\n")
    assert "stalled" not in lines


@pytest.mark.parametrize(("age", "label"), [(5, "waiting"), (100, "stalled")])
@pytest.mark.usefixtures("well")
def test_pending_views_where_all_works(dagster_settings: Settings, client: redis.Redis, age: float, label: str) -> None:
    """They wait for the sensor, but not for minutes: the limit of `freshness` is higher."""
    with SubscriberThread(dagster_settings):
        wait_until(lambda: read_status(dagster_settings).checks["subscriber"].passed, 30, "a worker listens")
        client.zadd("viewer:changed", {"a": round((time.time() - age) * 1000)})
        lines = lines_of(dagster_settings)
    assert lines[label].startswith("nothing was persisted so far:")
    assert len({"idle", "waiting", "stalled"} & lines.keys()) == 1


def test_pending_views_where_something_fails(
    well: DagsterWorld, dagster_settings: Settings, client: redis.Redis
) -> None:
    """They are stalled at once."""
    well.beat_all(ago=310)
    client.zadd("viewer:changed", {"a": round(time.time() * 1000)})
    assert "stalled" in lines_of(dagster_settings)


@pytest.mark.usefixtures("well")
def test_status_after_a_flush(dagster_settings: Settings, world: World, client: redis.Redis) -> None:
    """No reasons of a stall; rejects by reason."""
    listens(client)
    world.send("a", 5)
    client.mset({PREFIX + "bad": "abc", PREFIX + "worse": "x", PREFIX + "less": "-3"})
    world.flush()
    lines = lines_of(dagster_settings)
    assert "stalled" not in lines
    assert lines["sensor"].endswith("s ago, skipped: no VOD was announced since the last flush")
    assert lines["persisted"] == "5 views of 1 VOD"
    assert re.fullmatch(
        r"3 counters \(value is not an integer: 2, value is negative: 1\); the last one \d+ s ago; for example"
        r" (bad|worse) \(value is not an integer\), less \(value is negative\)",
        lines["rejected"],
    )
    assert lines["status"] == "degraded: rejected, subscriber"  # its lease has no subscription
    (remedy,) = remedies_of(dagster_settings)["rejected"]
    assert remedy.endswith("; this report ends an hour after the last one")
    world.execute("UPDATE viewer.rejected_count SET counted_at = counted_at - interval '61 min'")
    lines = lines_of(dagster_settings)
    assert lines["rejected"] == "3 counters (value is not an integer: 2, value is negative: 1)"
    assert "rejected" not in lines["status"]
    assert lines["marker"] == "flush 1, batch 1 of 1; the ledger's last flush is 1"


def test_status_where_dagster_never_ran(dagster_settings: Settings, world: World) -> None:
    """The rest is shown, and what to start."""
    world.send("a", 5, announce=True)
    lines = lines_of(dagster_settings)
    assert lines["pending"].startswith("5 views of 1 announced VOD, the oldest announced ")
    assert lines["daemons"] == "Dagster has never run on this database"
    assert lines["stalled"].startswith("nothing was persisted so far:")  # the view is older than the limit
    reasons = stall_reasons_of(dagster_settings)
    assert reasons[0] == "Dagster has never run on this database: start Dagster's daemon, or `viewer-pipeline up`"
    assert "no worker listens to view_count_updates: start `viewer-pipeline worker`" in reasons
    assert lines["subscriber"].startswith("no worker listens: messages that are published now are missed")


@pytest.mark.usefixtures("well")
def test_lost_settings_and_the_time_zone(dagster_settings: Settings, client: redis.Redis, world: World) -> None:
    """Each has a line with its remedy, and a blank between its name and the message."""
    with SubscriberThread(dagster_settings):
        wait_until(lambda: read_status(dagster_settings).checks["subscriber"].passed, 30, "a worker listens")
        client.hset("viewer:subscriber", "settings", '{"TARGET_TABLE":"Vod"}')
        world.send("a", 5)
        world.flush()
        world.execute(
            "INSERT INTO viewer.daily_rollup (day, through, vods, views, starts_at, ends_at, time_zone)"
            " VALUES (current_date, '{}', 0, 0, now() - interval '3 hours', now() + interval '21 hours', 'Asia/Tokyo')"
        )
        output = render_status(read_status(dagster_settings), UNLIMITED)
        remedies = remedies_of(dagster_settings)
    assert "\nlost_settings    TARGET_TABLE is not set, and was Vod before: " in f"\n{output}"
    assert re.search(f"\nhistory_timezone .*\n{' ' * 17}remedy: ", output)
    assert "\npersisted        5 views of 1 VOD\n" in output
    assert "\nhistory_timezone days were rolled up in another time zone: " in output
    assert any("put TARGET_TABLE=Vod into `.env`" in remedy for texts in remedies.values() for remedy in texts)
    assert any("backfill" in remedy for texts in remedies.values() for remedy in texts)


def test_the_first_status(dagster_settings: Settings, client: redis.Redis) -> None:
    """Nothing is wrong but that nothing was started yet, also while a first view waits."""
    for _ in range(2):
        lines = lines_of(dagster_settings)
        assert lines["never ran"].startswith(
            "nothing was persisted so far:\nDagster has never run on this database: start"
        )
        assert not {"stalled", "waiting", "idle"} & lines.keys()
        client.zadd("viewer:changed", {"a": round(time.time() * 1000)})


def test_counters_before_the_first_sweep(
    dagster: DagsterWorld, dagster_settings: Settings, client: redis.Redis
) -> None:
    """A counter that no message announced: what is pending is not known before Dagster has read the counters."""
    client.set(f"{PREFIX}a", 7)
    assert lines_of(dagster_settings)["pending"] == "0 views of 0 announced VODs"
    assert stall_reasons_of(dagster_settings)[-1] == (
        "only a sweep reads counters that no message announced, and none has run yet (`viewer-pipeline doctor` counts"
        " them): no VOD is announced, and no message was received yet"
    )
    dagster.register()
    dagster.tick(SWEEP, 3, skip="no key vod:views:* holds views: nothing to flush")
    assert stall_reasons_of(dagster_settings)[-1].startswith("nothing is pending: no VOD is announced, ")


def remedies_of(settings: Settings) -> dict[str, list[str]]:
    """Return the remedies by the label above them."""
    remedies, label = dict[str, list[str]](), ""
    output = render_status(read_status(settings), UNLIMITED).splitlines()
    width = label_width(output)
    for line in output:
        label = line[:width].strip() or label
        if line[width:].startswith("remedy"):
            remedies.setdefault(label, []).append(line[width:].removeprefix("remedy: "))
    return remedies


def test_remedies(well: DagsterWorld, dagster_settings: Settings, world: World, client: redis.Redis) -> None:
    """Below each check that fails, and none below others; where all daemons have the same, once."""
    with SubscriberThread(dagster_settings):
        wait_until(lambda: read_status(dagster_settings).checks["subscriber"].passed, 30, "a worker listens")
        assert remedies_of(dagster_settings) == {}
    client.delete("viewer:subscriber")
    well.beat_all(ago=310)
    well.register(sensor=False)
    well.run(dg.DagsterRunStatus.FAILURE)
    world.execute("INSERT INTO viewer.incident (kind, message, run_id, views) VALUES ('drift', 'm', 'r', 7)")
    client.zadd("viewer:changed", {"a": 1_000_000})
    assert remedies_of(dagster_settings) == {
        "incidents": ["follow `viewer-pipeline docs redis-emptied`, then run `viewer-pipeline acknowledge`"],
        "freshness": ["the reasons are below"],
        "subscriber": ["start `viewer-pipeline worker` or `viewer-pipeline up`"],
        "daemons": ["start Dagster's daemon, or `viewer-pipeline up`"],
        "sensor": ["look under Automation in Dagster's UI, and start it there if it is stopped"],
        "runs": ["look at the run in Dagster's UI"],
    }


def test_a_remedy_of_several_checks(dagster_settings: Settings) -> None:
    """Once, below the first of them, with the names of the others."""
    start = "start Dagster's daemon, or `viewer-pipeline up`"
    remedies = remedies_of(dagster_settings)
    assert remedies["daemons"] == [f"remedy (also for sensor, sweep): {start}"]
    assert not {"sensor", "sweep"} & remedies.keys()


@pytest.fixture
def home_of_up(dagster_settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """The settings with a VIEWER_HOME whose `up` is starting, with embedded servers."""
    settings = dagster_settings.copy_unvalidated(viewer_home=tmp_path)
    with lock_home_directory(tmp_path):
        write_servers_file(settings, is_starting=True)
        yield settings


def write_servers_file(settings: Settings, *, is_starting: bool, started_at: float = 0.0) -> None:
    """Write the file as `up` does."""
    urls = {name: getattr(settings, name) for name in SERVER_LOGS}
    (settings.viewer_home / SERVERS_FILE).write_text(
        json.dumps({**urls, STARTING: is_starting, STARTED_AT: started_at})
    )


def test_status_during_the_start_of_up(home_of_up: Settings) -> None:
    """It is no stall, and there is nothing to start."""
    lines = lines_of(home_of_up)
    assert lines["status"] == "starting: not all processes of `up` run yet"
    assert not {"stalled", "waiting", "idle", "never ran"} & lines.keys()
    assert remedies_of(home_of_up) == {}
    assert read_status(home_of_up).to_dict()["up_is_starting"]
    write_servers_file(home_of_up, is_starting=False, started_at=time.time())
    assert lines_of(home_of_up)["status"] == "starting: not all processes of `up` run yet"  # Dagster has not reported
    write_servers_file(home_of_up, is_starting=False)
    lines = lines_of(home_of_up)
    assert lines["status"] == "degraded: daemons, sensor, sweep, subscriber"
    assert "Dagster has never run" in lines["never ran"]
    assert not read_status(home_of_up).to_dict()["up_is_starting"]


@pytest.mark.parametrize(
    ("setting", "server", "log"),
    [("redis_url", "redis", "redis.log"), ("database_url", "postgres", "postgres.log")],
)
def test_embedded_server_that_fails(home_of_up: Settings, setting: str, server: str, log: str) -> None:
    """The remedy names its log, in the check as well; that of a server of the user does not."""
    url = {"redis_url": f"redis://{LOOPBACK}:1/0", "database_url": f"postgresql://me@{LOOPBACK}:1/x"}[setting]
    fails = home_of_up.copy_unvalidated(**{setting: url})
    expected = f"or waits for a disk, or end it; its log is {home_of_up.viewer_home / log}"
    status = read_status(fails)
    assert expected not in status.failures[server].remedy
    assert "correct host and port" in status.failures[server].remedy
    write_servers_file(fails, is_starting=False)
    status = read_status(fails)
    assert expected in status.failures[server].remedy
    assert expected in status.checks[server].remedy


def test_postgres_that_accepts_connections_and_hangs(home_of_up: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status comes at once, with what is in Redis, although the client would wait for 5 s for a connection."""
    monkeypatch.setattr(status_module, "STATUS_SECONDS", STATUS_SECONDS)
    with socket.create_server((LOOPBACK, 0)) as hanging:
        url = f"postgresql://me@{LOOPBACK}:{hanging.getsockname()[1]}/x"
        for _ in range(10):  # more than one on a busy machine
            started = time.monotonic()
            status = read_status(home_of_up.copy_unvalidated(database_url=url))
            if (seconds := time.monotonic() - started) < 4:
                break
        assert seconds < 4
    assert status.failures.keys() == {"postgres"}
    assert re.fullmatch(
        r"no answer for [1-3]\.\d s", status.failures["postgres"].error
    )  # 1.5 s if the machine is not busy
    assert status.failures["postgres"].remedy == REACHABLE


def test_status_without_heartbeats(well: DagsterWorld, dagster_settings: Settings) -> None:
    """One line for all daemons: they are one process."""
    well.beat_all(ago=310)
    assert lines_of(dagster_settings)["daemons"] == "no heartbeat for 5 min"
    assert stall_reasons_of(dagster_settings)[0] == "Dagster's daemon: no heartbeat for 5 min"


def test_last_flush_while_the_daemon_is_down(well: DagsterWorld, dagster_settings: Settings, world: World) -> None:
    """Its age is unhealthy then, which Dagster's own freshness does not notice."""
    world.send("a", 5)
    world.flush()
    world.execute("UPDATE viewer.flush SET committed_at = committed_at - interval '6 min'")
    assert read_status(dagster_settings).checks["last_flush"].status == "healthy"
    well.beat_all(ago=310)
    last = read_status(dagster_settings).checks["last_flush"]
    assert (last.status, last.remedy) == ("unhealthy", "see the check daemon_sensor")
    assert last.message == "flush 1 was committed 6 min ago, and Dagster makes no other now"
    assert lines_of(dagster_settings)["last_flush"] == last.message


def test_status_without_the_heartbeat_of_one_daemon(well: DagsterWorld, dagster_settings: Settings) -> None:
    """It is named."""
    well.beat("SCHEDULER", ago=310)
    assert lines_of(dagster_settings)["daemons"] == "SCHEDULER: no heartbeat for 5 min"
    assert stall_reasons_of(dagster_settings)[0] == "Dagster's daemon SCHEDULER: no heartbeat for 5 min"


def test_stall_reason_is_a_stopped_sensor(well: DagsterWorld, dagster_settings: Settings) -> None:
    """It was stopped in the UI."""
    well.register(sensor=False)
    assert "the sensor was stopped in Dagster's UI" in stall_reasons_of(dagster_settings)


def test_stall_reasons_are_failures(well: DagsterWorld, dagster_settings: Settings) -> None:
    """Of the last run and the last tick, with their errors and without passwords."""
    cause = error_of(f"viewer_pipeline.errors.RedisUnavailable: Redis does not answer: redis://:{SECRET}@h:1: no\n")
    well.tick(SENSOR, error=error_of("Error occurred\n", cause))
    well.run(dg.DagsterRunStatus.FAILURE)
    reasons = lines_of(dagster_settings)["stalled"]
    assert "the last flush run failed: its process ended" in reasons.splitlines()
    assert "failed: Redis does not answer: redis://:***@h:1: no" in reasons
    assert SECRET not in reasons


@pytest.mark.usefixtures("well")
def test_stall_reason_is_the_interval_of_the_sensor(dagster_settings: Settings, world: World) -> None:
    """Nothing is wrong."""
    world.send("a", 5, announce=True)
    assert "1 VOD pending until the sensor ticks, every 30 s" in stall_reasons_of(dagster_settings)


def test_skip_reasons_that_are_older_than_the_pending_views(
    well: DagsterWorld, dagster_settings: Settings, client: redis.Redis
) -> None:
    """The reason "no VOD was announced" of a tick before the announcement is not why it is pending."""
    client.zadd("viewer:changed", {"a": round((time.time() - 10) * 1000)})
    well.tick(SENSOR, 3, skip="a flush is running")
    reasons = "\n".join(stall_reasons_of(dagster_settings))
    assert "a flush is running" in reasons
    assert "no key vod:views:* holds views" not in reasons  # of the sweep, 20 s ago
    status = read_status(dagster_settings)
    assert "skip_reason" not in status.checks["sweep"].details
    assert status.checks["sensor"].details["skip_reason"] == "a flush is running"
    client.zadd("viewer:changed", {"a": round((time.time() - 100) * 1000)})
    assert "no key vod:views:* holds views" in "\n".join(stall_reasons_of(dagster_settings))


@pytest.mark.usefixtures("well")
def test_headline(dagster_settings: Settings, world: World, client: redis.Redis) -> None:
    """The status of the whole, and the lines that are the reason: what /health has as well."""
    with SubscriberThread(dagster_settings):
        wait_until(lambda: read_status(dagster_settings).checks["subscriber"].passed, 30, "a worker listens")
        assert lines_of(dagster_settings)["status"] == "healthy"
        client.config_set("maxmemory-policy", "allkeys-lru")
        lines = lines_of(dagster_settings)
        client.config_set("maxmemory-policy", "noeviction")
        assert lines["status"] == "degraded: redis_memory"
        assert "evicts counters" in next(text for name, text in lines.items() if name.startswith("redis_mem"))
        world.execute(
            "INSERT INTO viewer.incident (kind, message, run_id, views) VALUES ('postgres_rolled_back', 'm', 'r', 0)"
        )
        assert lines_of(dagster_settings)["status"] == "unhealthy: incidents"


@pytest.mark.usefixtures("well")
def test_lease_that_expired(dagster_settings: Settings, client: redis.Redis) -> None:
    """The worker died: nobody holds the lease."""
    listens(client, left_ms=-1)
    check = read_status(dagster_settings).checks["subscriber"]
    assert (check.status, check.details["holder"]) == ("degraded", None)


@pytest.mark.usefixtures("well")
def test_lease_of_a_worker_without_subscription(dagster_settings: Settings) -> None:
    """It died a moment ago, and its lease has not expired yet."""
    check = read_status(dagster_settings).checks["subscriber"]
    assert (check.status, check.details["holder"]) == ("degraded", "host:7")
    assert "no worker is subscribed: it died" in check.message
    assert check.remedy == "start `viewer-pipeline worker` or `viewer-pipeline up`"


@pytest.mark.usefixtures("well")
def test_worker_of_a_running_up_that_died(dagster_settings: Settings, tmp_path: Path) -> None:
    """That `up` starts another one, if it uses this Redis."""
    settings = dagster_settings.copy_unvalidated(viewer_home=tmp_path)
    with lock_home_directory(tmp_path):
        for url, remedy in (
            (settings.redis_url, "none if it ended: `up` starts its worker again within seconds; if it hangs, end it"),
            ("redis://other:6379/0", "start `viewer-pipeline worker` or `viewer-pipeline up`"),
        ):
            servers = {STARTING: False, SETTINGS: {"redis_url": url}}
            (tmp_path / SERVERS_FILE).write_text(json.dumps(servers))
            assert read_status(settings).checks["subscriber"].remedy == remedy


def test_status_without_the_storage_of_dagster(dagster_settings: Settings) -> None:
    """It has a database of its own, which is out of reach: the rest is shown."""
    elsewhere = dagster_settings.copy_unvalidated(dagster_database_url=f"postgresql://me:s3cret@{LOOPBACK}:1/x")
    lines = lines_of(elsewhere)
    assert lines["persisted"] == "0 views of 0 VODs"
    assert "Dagster's storage" in lines["daemons"]
    assert "s3cret" not in str(lines)


@pytest.mark.usefixtures("well")
def test_status_of_a_restored_postgres(dagster_settings: Settings, client: redis.Redis) -> None:
    """The marker is ahead of the ledger."""
    client.hset("viewer:settled", mapping={"flush": 7, "batch": 1, "batches": 1})
    assert "; PostgreSQL was rolled back" in lines_of(dagster_settings)["marker"]


@pytest.mark.usefixtures("well")
def test_last_flush_in_the_future_is_not_recent(dagster_settings: Settings, world: World) -> None:
    """Its clock was set back: nobody knows when it was, so the reasons are listed."""
    world.send("a", 5)
    world.flush()
    with psycopg.connect(dagster_settings.require_database_url()) as connection:
        connection.execute("UPDATE viewer.flush SET committed_at = now() + interval '6 hours'")
    status = read_status(dagster_settings)
    assert status.checks["last_flush"].status == "unhealthy"
    assert status.stall_reasons[0].startswith(
        "nothing was persisted since the last flush, 6 h in the future: the clock of"
    )


@pytest.mark.usefixtures("well")
def test_status_as_json(dagster_settings: Settings, world: World) -> None:
    """Checks by name, timestamps in ISO 8601 with Z, reasons as sentences."""
    world.send("a", 5)
    world.flush()
    with psycopg.connect(dagster_settings.require_database_url()) as connection:
        connection.execute("UPDATE viewer.flush SET committed_at = now() - interval '1 hour'")
        connection.execute("INSERT INTO viewer.incident (kind, message, run_id, views) VALUES ('drift', 'm', 'r', 7)")
    state = json.loads(json.dumps(read_status(dagster_settings).to_dict()))
    checks = state["checks"]
    assert {checks[daemon_check_name(daemon)]["status"] for daemon in DAEMONS} == {"healthy"}
    assert checks["sensor"]["details"]["skip_reason"] == "no VOD was announced since the last flush"
    assert checks["subscriber"]["details"]["holder"] == "host:7"
    assert state["status"] == "degraded"
    assert state["stall_reasons"][0] == "nothing was persisted since the last flush, 60 min ago:"
    (flush,), (incident,) = state["flushes"], state["incidents"]
    times = [state["timestamp"], flush["taken_at"], flush["committed_at"]]
    times += [incident["first_seen_at"], incident["last_seen_at"]]
    assert [time for time in times if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)] == []


def test_connections_are_kept_between_readings(dagster_settings: Settings) -> None:
    """As `status --watch` needs it; a connection that the server has closed is replaced."""
    sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'viewer-pipeline' AND datname = %s"
    database = dagster_settings.require_database_url().rpartition("/")[2]
    with psycopg.connect(dagster_settings.require_database_url(), autocommit=True) as connection:

        def pids() -> set[int]:
            return {pid for (pid,) in connection.execute(sessions, [database])}

        with StatusReader.open(dagster_settings) as reader:
            assert not reader.read().failures
            kept = pids()
            for _ in range(3):
                time.sleep(MIN_INTERVAL_SECONDS)  # a younger result is used again
                assert not reader.read().failures
                kept &= pids()
            assert kept
            connection.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS t (pid)", [[*kept]])
            wait_until(lambda: not pids() & kept, 30, "they are closed")
            time.sleep(MIN_INTERVAL_SECONDS)
            assert not reader.read().failures
        wait_until(lambda: not pids(), 30, "all are closed")
