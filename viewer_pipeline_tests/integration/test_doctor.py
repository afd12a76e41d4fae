"""The doctor on real servers: every result that can be provoked is provoked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis
from rich.console import Console

from viewer_pipeline.checks import CheckResult, worst_status
from viewer_pipeline.monitoring.dagster_rules import DAEMONS, daemon_check_name
from viewer_pipeline.monitoring.dagster_tables import SENSOR, SWEEP
from viewer_pipeline.monitoring.doctor import run_checks as doctor
from viewer_pipeline.monitoring.doctor.check_rationales import CHECK_RATIONALES
from viewer_pipeline.monitoring.doctor.print_doctor_report import print_report
from viewer_pipeline.monitoring.health_rules import REVISION
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.servers import Postgres
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.subscribers import SubscriberThread
from viewer_pipeline_tests.support.world import PREFIX, World

INT4 = 2**31 - 1
SECRET = "s3cret"
UNLIMITED = 10_000  # columns
Results = dict[str, CheckResult]


def run_doctor_checks(settings: Settings, check_seconds: float = 15.0) -> Results:
    """Return the results by name; they are in the order of the report."""
    results = doctor.run_doctor_checks(settings, check_seconds=check_seconds)
    names = [result.name for result in results]
    assert names == [name for name in CHECK_RATIONALES if name in names]
    return by_name(results)


def text_of(results: Results, name: str) -> str:
    """Return status and message of a result; one that is not healthy has a remedy."""
    result = results[name]
    assert result.passed or result.remedy, f"{name} has no remedy"
    return f"{result.status}: {result.message}"


@pytest.fixture
def settings(dagster_settings: Settings) -> Settings:
    """Both servers, otherwise the defaults."""
    return dagster_settings


@contextmanager
def configured(client: redis.Redis, **options: str) -> Iterator[None]:
    """Change the configuration of Redis for a while."""
    names = {name.replace("_", "-"): value for name, value in options.items()}
    before: dict[str, Any] = {}
    for name in names:
        before |= {str(key): value for key, value in client.config_get(name).items()}
    try:
        for name, value in names.items():
            client.config_set(name, value)
        yield
    finally:
        for raw, value in before.items():
            client.config_set(raw, value)


def test_healthy_servers(settings: Settings, dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded servers of the tests keep nothing; all else is healthy."""
    for checks in ("redis_checks", "postgres_checks"):  # a busy machine is slow
        monkeypatch.setattr(f"viewer_pipeline.monitoring.doctor.{checks}.SLOW_MS", 10_000.0)
    dagster.beat_all()
    dagster.register()
    dagster.tick(SENSOR, 3, skip="no VOD was announced")
    dagster.tick(SWEEP, 3, skip="nothing to flush")
    dagster.run(dg.DagsterRunStatus.SUCCESS)
    with SubscriberThread(settings):
        results = run_doctor_checks(settings)
    assert {name: result.status for name, result in results.items() if not result.passed} == {
        "postgres_durability": "unhealthy",
        "redis_persistence": "degraded",
        "pubsub_mode": "unknown",
    }
    assert set(CHECK_RATIONALES) - set(results) == {"target_room", "celery"}
    assert results["subscriber"].details["workers"] == 1


def test_doctor_changes_nothing(settings: Settings, world: World, client: redis.Redis, dagster: DagsterWorld) -> None:
    """Redis counts no change; PostgreSQL, which is read-only here, refuses nothing."""
    dagster.beat_all()
    world.send("a", 3)
    client.hset(PREFIX + "bad", "a", 1)
    name = settings.require_database_url().rpartition("/")[2]
    world.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    changes, keys = dict(client.info("persistence"))["rdb_changes_since_last_save"], sorted(client.keys())
    results = run_doctor_checks(settings)
    assert dict(client.info("persistence"))["rdb_changes_since_last_save"] == changes
    assert sorted(client.keys()) == keys
    assert text_of(results, "postgres") == "unhealthy: PostgreSQL refuses writes: its transactions are read-only"
    assert results["postgres_privileges"].status == results["daemon_sensor"].status == "healthy"
    assert results["marker"].message == "not checked, because postgres is unhealthy"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("noeviction", "healthy: maxmemory-policy noeviction: no counter is evicted"),
        ("volatile-lru", "healthy: maxmemory-policy volatile-lru evicts only keys that expire"),
        ("allkeys-lru", "degraded: maxmemory-policy allkeys-lru evicts counters when memory is full"),
    ],
)
def test_eviction(settings: Settings, client: redis.Redis, policy: str, expected: str) -> None:
    """The rule of /health."""
    with configured(client, maxmemory_policy=policy):
        assert text_of(run_doctor_checks(settings), "redis_memory").startswith(expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "degraded: neither append-only file nor snapshots: a restart loses all pending views"),
        ({"save": "3600 1"}, "degraded: snapshots only (save 3600 1): a crash loses the pending views since"),
        (
            {"appendonly": "yes", "appendfsync": "always"},
            "healthy: append-only file, appendfsync always: a power cut loses nothing",
        ),
        (
            {"appendonly": "yes"},
            "healthy: append-only file, appendfsync everysec: a power cut loses the views of the last",
        ),
        ({"appendonly": "yes", "appendfsync": "no"}, "degraded: append-only file, appendfsync no"),
    ],
)
def test_persistence(settings: Settings, client: redis.Redis, options: dict[str, str], expected: str) -> None:
    """What a power cut would take along."""
    with configured(client, **options):
        assert text_of(run_doctor_checks(settings), "redis_persistence").startswith(expected)


def examined_without(command: str, settings: Settings, client: redis.Redis) -> Results:
    """Examine as a user of Redis who may do everything but this command."""
    client.acl_setuser(
        "limited", True, passwords=[f"+{SECRET}"], keys=["*"], channels=["*"], commands=["+@all", f"-{command}"]
    )
    try:
        url = settings.require_redis_url().replace("redis://", f"redis://limited:{SECRET}@")
        return run_doctor_checks(settings.copy_unvalidated(redis_url=url))
    finally:
        client.acl_deluser("limited")


def test_redis_that_hides_its_configuration(settings: Settings, client: redis.Redis) -> None:
    """As managed services do: INFO shows the policy and the append-only file; snapshots are unknown."""
    results = examined_without("config", settings, client)
    assert results["redis"].status == results["redis_memory"].status == "healthy"
    assert "CONFIG is refused, so snapshots are unknown" in text_of(results, "redis_persistence")


def test_redis_without_info(settings: Settings, client: redis.Redis) -> None:
    """What INFO shows is unknown; the rest is checked."""
    results = examined_without("info", settings, client)
    assert text_of(results, "redis").startswith("healthy: answers in ")
    unknown = {name for name, result in results.items() if result.status == "unknown"}
    assert unknown == {"redis_memory", "redis_version", "redis_cluster", "redis_persistence", "pubsub_mode"}
    assert results["keyspace"].status == "healthy"


def test_replica(settings: Settings, client: redis.Redis) -> None:
    """Counters cannot be settled on it."""
    client.replicaof(LOOPBACK, 1)
    try:
        results = run_doctor_checks(settings)
    finally:
        client.replicaof("NO", "ONE")
    assert text_of(results, "redis") == f"unhealthy: Redis refuses writes: it is a replica of {LOOPBACK}:1"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"maxmemory": "100kb"}, "command not allowed when used memory > 'maxmemory'"),
        ({"min_replicas_to_write": "1"}, "NOREPLICAS"),
    ],
)
def test_redis_that_refuses_writes(
    settings: Settings, client: redis.Redis, options: dict[str, str], expected: str
) -> None:
    """With the reason of Redis."""
    with configured(client, **options):
        text = text_of(run_doctor_checks(settings), "redis")
    assert text.startswith("unhealthy: Redis refuses writes: redis://")
    assert expected in text


def test_redis_that_cannot_wait(settings: Settings) -> None:
    """Too few replicas; and no WAITAOF in Redis 6.2."""
    results = run_doctor_checks(settings.copy_unvalidated(redis_wait_replicas=2))
    assert text_of(results, "redis_durability") == "unhealthy: REDIS_WAIT_REPLICAS=2, and 0 replicas are connected"
    text = text_of(run_doctor_checks(settings.copy_unvalidated(redis_wait_aof=1)), "redis_durability")
    assert text.startswith("unhealthy: Settings are not usable: REDIS_WAIT_AOF=1: redis://")


def test_counters_that_expire(settings: Settings, world: World) -> None:
    """Unhealthy: they take their views with them."""
    world.send_many(3)
    world.client.expire(PREFIX + "vod0001", 3600)
    results = run_doctor_checks(settings)
    expected = f"unhealthy: 1 of 3 counters with an expiry, e.g. {PREFIX}vod0001 in 3600 s"
    assert text_of(results, "expiring_counters") == expected
    assert results["keyspace"].details["counters"] == 3


def test_counters_that_hold_no_number(settings: Settings, client: redis.Redis) -> None:
    """Another type, or text; a counter at zero is valid."""
    client.set(PREFIX + "text", "abc")
    client.set(PREFIX + "zero", "0")
    client.hset(PREFIX + "hash", "a", 1)
    text = text_of(run_doctor_checks(settings), "counter_values")
    assert text.startswith("degraded: 2 of 3 keys without a count, e.g. ")
    assert f"{PREFIX}hash is a hash" in text
    assert f"{PREFIX}text value is not an integer" in text


def test_one_counter_without_a_fault(settings: Settings, client: redis.Redis) -> None:
    """The messages are right for one as for many."""
    client.set(f"{PREFIX}a", 1)
    results = run_doctor_checks(settings)
    assert text_of(results, "expiring_counters") == "healthy: no counter expires (1 read)"
    assert text_of(results, "counter_values") == "healthy: every counter holds a number (1 read)"


def test_cost_of_a_sweep(settings: Settings, client: redis.Redis) -> None:
    """The scan covers all keys, and most of them are no counters."""
    client.mset({f"vod:session:{number}": 1 for number in range(2500)})
    sweep = run_doctor_checks(settings)["keyspace"]
    assert (sweep.details["keys"], sweep.details["counters"]) == (2500, 0)
    assert sweep.message.startswith(f"2500 keys, 0 counters {PREFIX}*: a sweep makes 5 SCAN calls of ")


def test_missing_schema(settings: Settings, world: World) -> None:
    """Unhealthy, with the command that creates it; what needs no schema is checked all the same."""
    world.execute("DROP SCHEMA viewer CASCADE")
    results = run_doctor_checks(settings.copy_unvalidated(target_table="public.Vod"))
    assert text_of(results, "postgres") == "unhealthy: the schema `viewer` is missing"
    assert results["postgres"].remedy == "run `viewer-pipeline migrate`"
    assert "there is no such table" in text_of(results, "target")
    assert results["target"].remedy.startswith("create the table, or correct TARGET_TABLE;")
    assert results["marker"].status == results["clone_detection"].status == "unknown"
    assert "parked" not in results


@pytest.mark.parametrize(("revision", "expected"), [("0001", "unhealthy"), ("9999", "healthy")])
def test_schema_of_another_version(settings: Settings, world: World, revision: str, expected: str) -> None:
    """An older schema must be migrated; a newer one is reported, with the remedy."""
    world.execute("UPDATE viewer.alembic_version SET version_num = %s", revision)
    result = run_doctor_checks(settings)["postgres"]
    assert (result.status, bool(result.remedy)) == (expected, True)
    assert f"the schema `viewer` is at revision {revision}, " in result.message
    assert REVISION in result.message


def test_encoding_that_cannot_hold_all_ids(settings: Settings, postgres_server: Postgres) -> None:
    """Ids are Unicode."""
    name = "ascii_" + os.urandom(4).hex()
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        try:
            results = run_doctor_checks(settings.copy_unvalidated(database_url=postgres_server.url_of_database(name)))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert text_of(results, "postgres_encoding") == "unhealthy: the database is encoded in SQL_ASCII"


def test_role_without_rights(settings: Settings, world: World) -> None:
    """All missing rights in one message."""
    role = "poor_" + os.urandom(4).hex()
    world.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'")
    world.execute(f"GRANT USAGE ON SCHEMA viewer TO {role}")
    world.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA viewer TO {role}")
    world.execute(f"REVOKE INSERT, UPDATE ON viewer.parked FROM {role}")
    try:
        address = settings.require_database_url().rpartition("@")[2]
        results = run_doctor_checks(settings.copy_unvalidated(database_url=f"postgresql://{role}:{SECRET}@{address}"))
    finally:
        world.execute(f"DROP OWNED BY {role}")
        world.execute(f"DROP ROLE {role}")
    missing = "INSERT ON viewer.parked, UPDATE ON viewer.parked"
    assert text_of(results, "postgres_privileges") == f"unhealthy: role {role} has no {missing}"
    assert f'role "{role}" has no USAGE on schema dagster' in text_of(results, "daemon_sensor")


@pytest.fixture
def vods(world: World) -> TargetWorld:
    """Streamix's tables."""
    vods = TargetWorld(world.stores)
    vods.make_streamix()
    return vods


@pytest.mark.parametrize(("count", "expected"), [(5, "healthy"), (INT4 - 5, "degraded")])
def test_room_in_the_target(settings: Settings, vods: TargetWorld, count: int, expected: str) -> None:
    """A count that comes near the limit of int4 is reported."""
    vods.add_vods("a", count=count)
    results = run_doctor_checks(settings.copy_unvalidated(target_table="public.Vod"))
    assert text_of(results, "target") == 'healthy: "public"."Vod": ids are text, counts integer'
    assert text_of(results, "target_room") == f"{expected}: the largest count is {count}, integer holds {INT4}"


def test_parked_views(settings: Settings, vods: TargetWorld) -> None:
    """Their number and the reasons; healthy, with a remedy."""
    vods.send("ghost", 7)
    vods.flush()
    results = run_doctor_checks(settings.copy_unvalidated(target_table="public.Vod"))
    assert text_of(results, "parked") == 'healthy: 7 views of 1 VOD parked (1: no row in "public"."Vod")'
    assert results["parked"].remedy.startswith("none for deleted VODs")


def test_dagster_that_never_ran(settings: Settings) -> None:
    """As before the first start: degraded."""
    results = run_doctor_checks(settings)
    daemons = {text_of(results, daemon_check_name(daemon)) for daemon in DAEMONS}
    assert daemons == {"degraded: Dagster has never run on this database"}
    assert results["sensor"].status == results["sweep"].status == "degraded"


def test_dagster_that_does_not_run(settings: Settings, dagster: DagsterWorld) -> None:
    """Nothing launches flushes."""
    dagster.beat_all(ago=600)
    dagster.register(sweep=False)
    dagster.tick(SENSOR, 600, skip="no VOD was announced")
    for _ in range(3):
        dagster.run(dg.DagsterRunStatus.FAILURE)
    results = run_doctor_checks(settings)
    assert text_of(results, "daemon_sensor") == "unhealthy: no heartbeat for 10 min"
    assert text_of(results, "daemon_backfill") == "degraded: no heartbeat for 10 min"
    assert text_of(results, "sensor").startswith("unhealthy: the sensor has not ticked for 10 min")
    assert text_of(results, "sweep").startswith("unhealthy: the sweep schedule was stopped in Dagster's UI")
    assert text_of(results, "flush_runs") == "unhealthy: the last 3 flush runs failed: its process ended"


def test_settings_that_contradict_each_other(settings: Settings) -> None:
    """Each contradiction is named."""
    changed = settings.copy_unvalidated(
        parked_retention_days=3,
        flush_max_counters=10,
        batch_size=100,
        pubsub_mode="announce",
        sweep_cron="0 3 * * *",
        sensor_scan_max_keys=0,
    )
    text = text_of(run_doctor_checks(changed), "settings")
    assert text.startswith("degraded: FLUSH_MAX_COUNTERS=10 is below BATCH_SIZE=100; PARKED_RETENTION_DAYS is set")
    assert text.endswith("which is rare: SWEEP_CRON=0 3 * * *, SENSOR_SCAN_MAX_KEYS=0")


def test_unknown_parameters_of_a_url(settings: Settings) -> None:
    """They are named, with the variable."""
    text = text_of(
        run_doctor_checks(settings.copy_unvalidated(database_url=f"{settings.database_url}?what=1")), "settings"
    )
    assert text == "degraded: unknown parameters in DATABASE_URL are dropped: what"


def test_misspelled_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are named with their place and the setting that was meant, without their values."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"FLUSH_MAX_COUNTER={SECRET}\nOTHER={SECRET}\n")
    monkeypatch.setenv("TARGET_TABEL", SECRET)
    results = run_doctor_checks(settings)
    assert SECRET not in str(results)
    assert text_of(results, "settings") == (
        "degraded: TARGET_TABEL in environment is not a setting; TARGET_TABLE was probably meant;"
        " FLUSH_MAX_COUNTER in .env is not a setting; FLUSH_MAX_COUNTERS was probably meant;"
        " names in .env without effect: OTHER"
    )


def unreachable(results: Results) -> set[str]:
    """Return the names of checks whose probe failed; no result has a password."""
    assert SECRET not in str([result.to_dict() for result in results.values()])
    starts = ("PostgreSQL is unavailable: ", "Redis does not answer: ", "No connection to ", "no answer for ")
    return {name for name, result in results.items() if result.message.startswith(starts)}


@pytest.mark.parametrize("fault", [Proxy.blackhole, Proxy.cut], ids=["silent", "refusing"])
@pytest.mark.parametrize("server", ["postgres", "redis"])
def test_server_out_of_reach(settings: Settings, fault: Callable[[Proxy], None], server: str) -> None:
    """Its checks are unhealthy or unknown; those of the other server are healthy."""
    name = "database_url" if server == "postgres" else "redis_url"
    url = getattr(settings, name)
    with Proxy.of(url, 0) as proxy:
        fault(proxy)
        results = run_doctor_checks(settings.copy_unvalidated(**{name: proxy.url(url)}), check_seconds=4)
    assert unreachable(results) == {"postgres": {"postgres"}, "redis": {"redis", "redis_memory"}}[server]
    both = {"marker", "unsettled", "incidents", "clone_detection", "clock"}
    of_postgres = {"postgres_version", "target", "parked", "daemon_sensor", "sensor", "flush_runs"}
    pending_samples = {"redis_version", "keyspace", "counter_values", "freshness", "subscriber"}
    mine, others = (of_postgres, pending_samples) if server == "postgres" else (pending_samples, of_postgres)
    unknown = f"not checked, because {server} is unhealthy"
    assert [name for name in mine | both if results[name].message != unknown] == []
    assert [name for name in others - {"subscriber"} if results[name].message.startswith("not checked")] == []
    assert worst_status(results.values()) == "unhealthy"


def test_redis_that_stops_answering(settings: Settings) -> None:
    """In the middle, at the keys of the counters: the doctor returns within its limit."""
    url = settings.require_redis_url()
    with Proxy.of(url, 0) as proxy:
        proxy.fall_silent_at(b"MGET", deliver=True, times=100)
        with connect(url) as client:
            client.incr(PREFIX + "a")
        results = run_doctor_checks(settings.copy_unvalidated(redis_url=proxy.url(url)), check_seconds=8)
    assert results["keyspace"].status in ("unhealthy", "unknown")
    assert results["postgres"].status == "healthy"


def test_postgres_that_stops_answering(settings: Settings) -> None:
    """The doctor times out long before its clients do."""
    url = settings.require_database_url()
    with Proxy.of(url, 0) as proxy:
        proxy.fall_silent_at(b"SELECT 1", deliver=True, times=100)
        results = run_doctor_checks(settings.copy_unvalidated(database_url=proxy.url(url)), check_seconds=2)
    assert results["postgres_latency"].message.startswith("no answer for ")
    assert results["postgres"].status == results["target"].status == "healthy"


def test_wrong_logins(settings: Settings) -> None:
    """The server's reason, without the password."""
    url = f"postgresql://nobody:{SECRET}@{settings.require_database_url().rpartition('@')[2]}"
    redis_url = settings.require_redis_url().replace("redis://", f"redis://nobody:{SECRET}@")
    results = run_doctor_checks(settings.copy_unvalidated(database_url=url, redis_url=redis_url))
    assert unreachable(results) == {"postgres", "redis", "redis_memory"}
    assert "password authentication failed" in results["postgres"].message


def test_report(settings: Settings, client: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    """By group; a result that is not healthy with its reason and remedy; equal results in one line."""
    with configured(client, maxmemory_policy="allkeys-lru"):
        results = list(run_doctor_checks(settings).values())
    print_report(results, Console(width=80))
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []
    print_report(results, Console(width=UNLIMITED))
    lines = capsys.readouterr().out.splitlines()
    groups = [line for line in lines if not line.startswith(" ")]
    assert groups[:-1] == ["settings", "PostgreSQL", "target table", "Redis", "counters", "producers", "Dagster"]
    assert groups[-1].startswith("1 unhealthy, ")
    assert groups[-1].endswith(" healthy: the whole is unhealthy")
    at = next(number for number, line in enumerate(lines) if "redis_memory" in line)
    assert lines[at].startswith("  degraded   redis_memory: maxmemory-policy allkeys-lru evicts counters")
    assert lines[at + 1].startswith("             reason: an evicted counter is a lost count")
    assert lines[at + 2].startswith("             remedy: CONFIG SET maxmemory-policy noeviction")
    assert any(re.fullmatch(r"  healthy    redis_version: (redis|valkey) \d+\.\d+\.\d+", line) for line in lines)
    daemons = ", ".join(map(daemon_check_name, DAEMONS))
    assert f"  degraded   {daemons}: Dagster has never run on this database" in lines
