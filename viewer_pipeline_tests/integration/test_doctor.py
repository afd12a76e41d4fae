"""What the doctor finds on real servers: each thing that can be provoked is provoked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import psycopg
import pytest
import redis

from viewer_pipeline.monitoring.dagster_tables import SENSOR, SWEEP
from viewer_pipeline.monitoring.doctor.examine import Doctor
from viewer_pipeline.monitoring.doctor.finding import REASONS, Finding, verdict
from viewer_pipeline.monitoring.doctor.show import show_findings
from viewer_pipeline.monitoring.rules import REVISION
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.servers import Postgres
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.subscribers import Running
from viewer_pipeline_tests.support.world import PREFIX, World

INT4 = 2**31 - 1
SECRET = "s3cret"
Findings = dict[str, Finding]


def examine(settings: Settings, patience: float = 15.0) -> Findings:
    """Return what is found, by name; each name once, in the order of the report."""
    findings = Doctor(settings, 0.2, patience).examine()
    names = [finding.name for finding in findings]
    assert names == [name for name in REASONS if name in names]
    return {finding.name: finding for finding in findings}


def state(found: Findings, name: str) -> str:
    """Return the state of a finding, what it must say and what is to be done."""
    finding = found[name]
    assert bool(finding.do) or finding.state == "ok", f"{name} says nothing to do"
    return f"{finding.state}: {finding.what}"


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


def test_all_is_well(settings: Settings, dagster: DagsterWorld, client: redis.Redis) -> None:
    """Nothing but what is known of the servers of the tests: they keep nothing."""
    dagster.beat_all()
    dagster.register()
    dagster.tick(SENSOR, 3, skip="no VOD was announced")
    dagster.tick(SWEEP, 3, skip="nothing to flush")
    dagster.run(dg.DagsterRunStatus.SUCCESS)
    with Running(settings):
        found = examine(settings)
    client.ping()
    assert {name: finding.state for name, finding in found.items() if finding.state != "ok"} == {
        "postgres_durability": "problem",
        "target": "note",
        "redis_persistence": "warning",
        "redis_durability": "note",
        "producers": "note",
    }
    assert set(REASONS) - set(found) == {"target_room"}


def test_it_writes_nothing(settings: Settings, world: World, client: redis.Redis, dagster: DagsterWorld) -> None:
    """No command that it sends to Redis is one that writes; PostgreSQL would refuse one that does."""
    dagster.beat_all()
    world.send("a", 3)
    client.hset(PREFIX + "bad", "a", 1)
    name = settings.require_database_url().rpartition("/")[2]
    world.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    client.config_resetstat()
    found = examine(settings)
    sent = {command.removeprefix("cmdstat_") for command in dict(client.info("commandstats"))}
    about: dict[str, Any] = client.command()
    assert [command for command in sorted(sent) if command in about and "write" in about[command]["flags"]] == []
    assert {"mget", "scan", "ttl", "type", "psubscribe", "exec", "info"} <= sent
    assert state(found, "postgres_writes").startswith("problem: transactions are read-only")
    assert found["postgres_schema"].state == found["dagster_storage"].state == "ok"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("noeviction", "ok: maxmemory-policy noeviction: no key is evicted"),
        ("volatile-lru", "ok: maxmemory-policy volatile-lru evicts keys that expire only, and no counter may"),
        ("allkeys-lru", "problem: maxmemory-policy allkeys-lru evicts counters when memory is full"),
        ("allkeys-random", "problem: maxmemory-policy allkeys-random evicts counters when memory is full"),
    ],
)
def test_eviction(settings: Settings, client: redis.Redis, policy: str, expected: str) -> None:
    """What may evict a counter must be changed."""
    with configured(client, maxmemory_policy=policy):
        assert state(examine(settings), "redis_eviction").startswith(expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "warning: neither append-only file nor snapshots: a restart loses all pending views"),
        ({"save": "3600 1"}, "warning: snapshots only (save 3600 1): a crash loses the pending views since"),
        (
            {"appendonly": "yes", "appendfsync": "always"},
            "ok: append-only file, appendfsync always: a power cut loses nothing",
        ),
        ({"appendonly": "yes"}, "ok: append-only file, appendfsync everysec: a power cut loses the views of the last"),
        ({"appendonly": "yes", "appendfsync": "no"}, "warning: append-only file, appendfsync no"),
    ],
)
def test_persistence(settings: Settings, client: redis.Redis, options: dict[str, str], expected: str) -> None:
    """What a power cut would take along."""
    with configured(client, **options):
        assert state(examine(settings), "redis_persistence").startswith(expected)


def examined_without(command: str, settings: Settings, client: redis.Redis) -> Findings:
    """Examine as a user of Redis who may do everything but this command."""
    client.acl_setuser(
        "limited", True, passwords=[f"+{SECRET}"], keys=["*"], channels=["*"], commands=["+@all", f"-{command}"]
    )
    try:
        url = settings.require_redis_url().replace("redis://", f"redis://limited:{SECRET}@")
        return examine(settings.changed(redis_url=url))
    finally:
        client.acl_deluser("limited")


def test_a_redis_that_does_not_tell_its_configuration(settings: Settings, client: redis.Redis) -> None:
    """As managed services do: INFO tells the policy and whether there is an append-only file; the rest is not known."""
    found = examined_without("config", settings, client)
    assert state(found, "redis").startswith("note: answers; CONFIG is forbidden, so appendfsync, save")
    assert found["redis_eviction"].state == "ok"
    assert "whether there are snapshots is not known" in state(found, "redis_persistence")


def test_a_redis_that_tells_nothing(settings: Settings, client: redis.Redis) -> None:
    """Without INFO, what is known is still said."""
    found = examined_without("info", settings, client)
    assert state(found, "redis").startswith("warning: answers, but this user may not ask INFO")
    assert "redis_eviction" not in found
    assert found["keyspace"].state == "ok"


def test_a_replica(settings: Settings, client: redis.Redis) -> None:
    """Counters cannot be settled on it."""
    client.replicaof(LOOPBACK, 1)
    try:
        found = examine(settings)
    finally:
        client.replicaof("NO", "ONE")
    assert state(found, "redis_writes") == f"problem: it is a replica of {LOOPBACK}:1"


def test_a_full_memory(settings: Settings, client: redis.Redis) -> None:
    """It refuses writes."""
    with configured(client, maxmemory="100kb"):
        client.info()
        found = state(examine(settings), "redis_writes")
    assert found.startswith("problem: ")
    assert found.endswith("% of maxmemory is used: it refuses writes (OOM)")


def test_replicas_that_are_missing(settings: Settings, client: redis.Redis) -> None:
    """For the server's own rule, and for ours."""
    with configured(client, min_replicas_to_write="1"):
        found = examine(settings.changed(redis_wait_replicas=2))
    assert state(found, "redis_writes") == "problem: it has 0 good replicas and takes writes with 1 only"
    assert state(found, "redis_durability") == "problem: REDIS_WAIT_REPLICAS=2, and 0 replicas are connected"


def test_a_redis_that_cannot_wait(settings: Settings) -> None:
    """The embedded one is too old for WAITAOF."""
    found = state(examine(settings.changed(redis_wait_aof=1)), "redis_durability")
    assert found.startswith("problem: Settings are not usable: REDIS_WAIT_AOF=1: redis://")


def test_counters_that_expire(settings: Settings, world: World) -> None:
    """They take their views along."""
    world.send_many(3)
    world.client.expire(PREFIX + "vod0001", 3600)
    found = examine(settings)
    assert state(found, "expiring_counters") == (f"problem: 1 of 3 counters expire, e.g. {PREFIX}vod0001 in 3600 s")
    assert found["keyspace"].figures["counters_seen"] == 3


def test_counters_that_are_none(settings: Settings, client: redis.Redis) -> None:
    """Another type, no number; a counter at zero is fine."""
    client.set(PREFIX + "text", "abc")
    client.set(PREFIX + "zero", "0")
    client.hset(PREFIX + "hash", "a", 1)
    found = state(examine(settings), "counter_values")
    assert found.startswith("warning: 2 of 3 keys are no counts, e.g. ")
    assert f"{PREFIX}hash is a hash" in found
    assert f"{PREFIX}text value is not an integer" in found


def test_what_a_sweep_costs(settings: Settings, client: redis.Redis) -> None:
    """The scan looks at all keys, and most of them are no counters."""
    client.mset({f"vod:session:{number}": 1 for number in range(2500)})
    found = examine(settings)["keyspace"]
    assert (found.figures["keys"], found.figures["counters_seen"]) == (2500, 0)
    assert found.what.startswith(f"2500 keys, 0 counters {PREFIX}*: a sweep makes 3 SCAN calls of ")


def test_no_schema(settings: Settings, world: World) -> None:
    """It says which command makes it; what needs no schema is looked at all the same."""
    world.execute("DROP SCHEMA viewer CASCADE")
    found = examine(settings.changed(target_table="public.Vod"))
    assert state(found, "postgres_schema") == "problem: the schema `viewer` is missing"
    assert found["postgres_schema"].do == "run `viewer-pipeline migrate`"
    assert "there is no such table" in state(found, "target")
    assert "parked" not in found


@pytest.mark.parametrize(("revision", "expected"), [("0001", "problem"), ("9999", "warning")])
def test_another_revision(settings: Settings, world: World, revision: str, expected: str) -> None:
    """An older schema must be migrated, a newer one is that of a newer program."""
    world.execute("UPDATE viewer.alembic_version SET version_num = %s", revision)
    found = state(examine(settings), "postgres_schema")
    assert found.startswith(f"{expected}: the schema `viewer` is at revision {revision}, ")
    assert REVISION in found


def test_an_encoding_that_holds_not_all(settings: Settings, postgres_server: Postgres) -> None:
    """Ids are Unicode."""
    name = "ascii_" + os.urandom(4).hex()
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        try:
            found = examine(settings.changed(database_url=postgres_server.url_of(name)))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert state(found, "postgres_encoding") == "problem: the database is encoded in SQL_ASCII"


def test_a_role_without_rights(settings: Settings, world: World) -> None:
    """All that is missing is named at once."""
    role = "poor_" + os.urandom(4).hex()
    world.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'")
    world.execute(f"GRANT USAGE ON SCHEMA viewer TO {role}")
    world.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA viewer TO {role}")
    world.execute(f"REVOKE INSERT, UPDATE ON viewer.parked FROM {role}")
    try:
        address = settings.require_database_url().rpartition("@")[2]
        found = examine(settings.changed(database_url=f"postgresql://{role}:{SECRET}@{address}"))
    finally:
        world.execute(f"DROP OWNED BY {role}")
        world.execute(f"DROP ROLE {role}")
    lacking = "INSERT ON viewer.parked, UPDATE ON viewer.parked"
    assert state(found, "postgres_privileges") == f"problem: role {role} lacks {lacking}"
    assert "this role has no USAGE on schema dagster" in state(found, "dagster_storage")


@pytest.fixture
def vods(world: World) -> TargetWorld:
    """Streamix's tables."""
    vods = TargetWorld(world.stores)
    vods.make_streamix()
    return vods


@pytest.mark.parametrize(("count", "expected"), [(5, "ok"), (INT4 - 5, "warning")])
def test_room_in_the_target(settings: Settings, vods: TargetWorld, count: int, expected: str) -> None:
    """A count that comes near what int4 holds."""
    vods.add_vods("a", count=count)
    found = examine(settings.changed(target_table="public.Vod"))
    assert state(found, "target") == 'ok: "public"."Vod": ids are text, counts integer'
    assert state(found, "target_room") == f"{expected}: the largest count is {count}, integer holds {INT4}"


def test_parked_views(settings: Settings, vods: TargetWorld) -> None:
    """How many, and why."""
    vods.send("ghost", 7)
    vods.flush()
    found = state(examine(settings.changed(target_table="public.Vod")), "parked")
    assert found == 'note: 7 views of 1 VODs are parked (1: no row in "public"."Vod")'


def test_dagster_never_ran(settings: Settings) -> None:
    """As before the first start: no reason to fail."""
    found = examine(settings)
    assert state(found, "dagster_storage") == "warning: Dagster has never run on this database"
    assert "dagster_daemons" not in found


def test_no_daemon(settings: Settings, dagster: DagsterWorld) -> None:
    """Nothing launches flushes."""
    dagster.beat_all(ago=600)
    dagster.register(sweep=False)
    dagster.tick(SENSOR, 600, skip="no VOD was announced")
    for _ in range(3):
        dagster.run(dg.DagsterRunStatus.FAILURE)
    found = examine(settings)
    assert state(found, "dagster_daemons").startswith("problem: no daemon lives: each has not been seen for 10 min")
    assert state(found, "sensor").startswith("problem: the sensor has not ticked for 10 min")
    assert state(found, "sweep").startswith("problem: the sweep schedule was stopped in Dagster's UI")
    assert state(found, "flush_runs") == "problem: the last 3 flush runs failed: its process ended"


def test_one_daemon_is_missing(settings: Settings, dagster: DagsterWorld) -> None:
    """It is named."""
    dagster.beat_all()
    dagster.beat("FRESHNESS_DAEMON", ago=600)
    found = state(examine(settings), "dagster_daemons")
    assert found == "warning: FRESHNESS_DAEMON has not been seen for 10 min"


def test_settings_that_do_not_go_together(settings: Settings) -> None:
    """They can be read, and one of them is vain."""
    odd = settings.changed(
        parked_retention_days=3, flush_max_counters=10, batch_size=100, pubsub_mode="announce", sweep_cron="0 3 * * *"
    )
    found = state(examine(odd), "settings")
    assert found.startswith("warning: FLUSH_MAX_COUNTERS=10 is below BATCH_SIZE=100; PARKED_RETENTION_DAYS is set")
    assert found.endswith("which is rare: SWEEP_CRON=0 3 * * *")


def test_parameters_that_mean_nothing(settings: Settings) -> None:
    """They are named, by the variable that they stand in."""
    found = state(examine(settings.changed(database_url=f"{settings.database_url}?what=1")), "settings")
    assert found == "warning: unknown parameters in DATABASE_URL are dropped: what"


def lost(found: Findings) -> set[str]:
    """Return the names of what could not be looked at; each says why, and none has a password."""
    for finding in found.values():
        assert SECRET not in str(finding.shown())
    do = "see that URL, network and login are right"
    return {name for name, finding in found.items() if finding.state == "problem" and finding.do.startswith(do)}


@pytest.mark.parametrize("fault", [Proxy.blackhole, Proxy.cut], ids=["silent", "refusing"])
@pytest.mark.parametrize("which", ["postgres", "redis"])
def test_a_server_out_of_reach(settings: Settings, fault: Callable[[Proxy], None], which: str) -> None:
    """It is a finding; the other one is looked at as always."""
    name = "database_url" if which == "postgres" else "redis_url"
    url = getattr(settings, name)
    with Proxy.of(url, 0) as proxy:
        fault(proxy)
        found = examine(settings.changed(**{name: proxy.url(url)}), patience=4)
    assert lost(found) == {which}
    others = {
        "postgres": {"target", "dagster_storage", "pipeline"},
        "redis": {"keyspace", "producers", "pipeline"},
    }[which]
    expected = f"warning: could not be looked at: see {which}"
    assert {name for name in found if state(found, name) == expected} == others
    assert ("postgres_version" in found) == (which == "redis")
    assert ("redis_version" in found) == (which == "postgres")
    assert verdict(list(found.values())) == "problem"


def test_a_server_that_falls_silent(settings: Settings) -> None:
    """In the middle, once the doctor listens."""
    url = settings.require_redis_url()
    with Proxy.of(url, 0) as proxy:
        proxy.fall_silent_at(b"MGET", deliver=True, times=100)
        with connect(url) as client:
            client.incr(PREFIX + "a")
        found = examine(settings.changed(redis_url=proxy.url(url)), patience=8)
    assert {"producers", "keyspace"} <= lost(found)
    assert found["redis_version"].state == "ok"


def test_a_postgres_that_falls_silent(settings: Settings) -> None:
    """It is given up long before its own clients do that."""
    url = settings.require_database_url()
    with Proxy.of(url, 0) as proxy:
        proxy.fall_silent_at(b"SELECT 1", deliver=True, times=100)
        found = examine(settings.changed(database_url=proxy.url(url)), patience=2)
    assert lost(found) == {"postgres"}
    assert found["postgres"].what.startswith("no answer for ")
    assert found["target"].state == "note"


def test_wrong_logins(settings: Settings) -> None:
    """Said with the server's reason, never with the password."""
    url = f"postgresql://nobody:{SECRET}@{settings.require_database_url().rpartition('@')[2]}"
    redis_url = settings.require_redis_url().replace("redis://", f"redis://nobody:{SECRET}@")
    found = examine(settings.changed(database_url=url, redis_url=redis_url))
    assert lost(found) == {"postgres", "redis"}
    assert "password authentication failed" in found["postgres"].what


def test_shown_in_a_terminal(settings: Settings, client: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    """By group, a mark each; what is not ok with its reason and what to do."""
    with configured(client, maxmemory_policy="allkeys-lru"):
        show_findings(list(examine(settings).values()))
    lines = capsys.readouterr().out.splitlines()
    groups = [line for line in lines if not line.startswith(" ")]
    assert groups[:-1] == ["settings", "PostgreSQL", "target table", "Redis", "counters", "producers", "Dagster"]
    assert groups[-1].startswith("2 problems, ")
    assert groups[-1].endswith(" ok: something must be fixed")
    at = next(number for number, line in enumerate(lines) if "redis_eviction" in line)
    assert lines[at].startswith("  PROBLEM  redis_eviction: maxmemory-policy allkeys-lru evicts counters")
    assert lines[at + 1] == "           why: an evicted counter is a lost count"
    assert lines[at + 2].startswith("           do:  CONFIG SET maxmemory-policy noeviction")
    assert any(re.fullmatch(r"  ok       redis_version: (redis|valkey) \d+\.\d+\.\d+", line) for line in lines)
