"""The guarantee that the doctor derives, on real servers in several configurations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from rich.console import Console

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.monitoring.doctor.guarantee import HOLDS, FaultGuarantee, derive_guarantee
from viewer_pipeline.monitoring.doctor.postgres_checks import check_postgres_server
from viewer_pipeline.monitoring.doctor.print_doctor_report import print_report
from viewer_pipeline.monitoring.doctor.run_checks import run_doctor_checks
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline.stack.postgres_server import PostgresServer, find_postgres_bin_directory
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.integration.test_doctor import configured
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.failover import PostgresPair
from viewer_pipeline_tests.support.subscribers import SubscriberThread
from viewer_pipeline_tests.support.waiting import wait_until

SECRET = "s3cret"


def derive(settings: Settings) -> dict[str, FaultGuarantee]:
    """Return the guarantee by name."""
    return {fault.name: fault for fault in derive_guarantee(run_doctor_checks(settings), settings)}


def holds_of(settings: Settings, *names: str) -> dict[str, str]:
    """Return what holds for these faults."""
    guarantee = derive(settings)
    return {name: guarantee[name].holds for name in names}


@pytest.fixture
def settings(dagster_settings: Settings) -> Settings:
    """Both servers, otherwise the defaults."""
    return dagster_settings


def test_servers_of_the_tests(settings: Settings) -> None:
    """They keep nothing, have no replica and no worker; what depends on no setting is exact all the same."""
    assert {name: fault.holds for name, fault in derive(settings).items()} == {
        "runs": "exact",
        "worker": "not exact",
        "redis_memory": "exact",
        "redis_restart": "not exact",
        "redis_crash": "not exact",
        "redis_failover_counted": "exact",
        "redis_failover_pending": "not exact",
        "postgres_crash": "not exact",
        "postgres_failover": "unknown",
        "older_copies": "not exact",
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"appendonly": "yes", "appendfsync": "always"}, ("exact", "exact")),
        ({"appendonly": "yes", "appendfsync": "everysec"}, ("exact", "not exact")),
        ({"appendonly": "no", "save": "3600 1"}, ("exact", "not exact")),
    ],
)
def test_persistence(
    settings: Settings, client: redis.Redis, options: dict[str, str], expected: tuple[str, str]
) -> None:
    """Redis is stopped; Redis is killed."""
    with configured(client, **options):
        held = holds_of(settings, "redis_restart", "redis_crash")
    assert tuple(held.values()) == expected


def test_eviction(settings: Settings, client: redis.Redis) -> None:
    """Counters may be evicted."""
    with configured(client, maxmemory_policy="allkeys-lru"):
        fault = derive(settings)["redis_memory"]
    assert (fault.holds, fault.remedy) == ("not exact", "maxmemory-policy noeviction")


@contextmanager
def refused(client: redis.Redis, settings: Settings, command: str) -> Iterator[Settings]:
    """Yield settings of a Redis user who may not run a command."""
    client.acl_setuser(
        "limited", True, passwords=[f"+{SECRET}"], keys=["*"], channels=["*"], commands=["+@all", f"-{command}"]
    )
    try:
        url = settings.require_redis_url().replace("redis://", f"redis://limited:{SECRET}@")
        yield settings.copy_unvalidated(redis_url=url)
    finally:
        client.acl_deluser("limited")


def test_config_is_refused(settings: Settings, client: redis.Redis) -> None:
    """As in managed services: with the append-only file a restart is exact, and its syncs are unknown."""
    with configured(client, appendonly="yes"), refused(client, settings, "config") as limited:
        guarantee = derive(limited)
    assert (guarantee["redis_restart"].holds, guarantee["redis_crash"].holds) == ("exact", "unknown")
    assert "CONFIG is refused" in guarantee["redis_crash"].reason
    assert "managed-services" in guarantee["redis_crash"].remedy


def test_info_is_refused(settings: Settings, client: redis.Redis) -> None:
    """What Redis keeps, evicts and replicates is unknown; PostgreSQL is not affected."""
    with refused(client, settings, "info") as limited:
        guarantee = derive(limited)
    unknown = {name for name, fault in guarantee.items() if fault.holds == "unknown"}
    assert unknown - {"postgres_failover"} == {
        "redis_memory",
        "redis_restart",
        "redis_crash",
        "redis_failover_counted",
        "redis_failover_pending",
    }
    assert guarantee["postgres_crash"].holds == "not exact"


def test_workers(settings: Settings) -> None:
    """One is not enough for messages that carry the views; two are; none is needed for announced ones."""
    with SubscriberThread(settings):
        assert holds_of(settings, "worker") == {"worker": "not exact"}
        with SubscriberThread(settings):
            assert holds_of(settings, "worker") == {"worker": "exact"}
    announced = settings.copy_unvalidated(pubsub_mode="announce")
    assert holds_of(announced, "worker") == {"worker": "exact"}


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[str]:
    """URL of a Redis with one replica."""
    with ExitStack() as servers:
        primary, replica = (RedisServer(tmp_path / name, append_only=False) for name in ("primary", "replica"))
        for server in (primary, replica):
            servers.callback(server.stop)
            server.start()
        client = servers.enter_context(connect(primary.url))
        client.config_set("repl-diskless-sync-delay", 0)
        with connect(replica.url) as follower:
            follower.replicaof(LOOPBACK, str(primary.port))
        wait_until(lambda: client.info("replication")["connected_slaves"] == 1, 30, "the replica")
        yield primary.url


def test_replica(settings: Settings, replicated: str) -> None:
    """With the wait, what flushes have counted is exact; what is in Redis alone never is; too many make it unknown."""
    waits = {
        number: settings.copy_unvalidated(redis_url=replicated, redis_wait_replicas=number, pubsub_mode="announce")
        for number in (0, 1, 2)
    }
    names = "redis_failover_counted", "redis_failover_pending"
    held = {number: tuple(holds_of(with_wait, *names).values()) for number, with_wait in waits.items()}
    assert held == {0: ("not exact", "not exact"), 1: ("exact", "not exact"), 2: ("unknown", "unknown")}


def test_standby(settings: Settings, servers_home: Path) -> None:
    """An asynchronous one may lack flushes; a synchronous one has every commit."""
    pair = PostgresPair(servers_home)
    try:
        pair.start()
        behind = settings.copy_unvalidated(database_url=pair.primary.url)
        with psycopg.connect(pair.primary.url_of_database("postgres"), autocommit=True) as connection:
            connected = "SELECT FROM pg_stat_replication WHERE state = 'streaming'"
            wait_until(lambda: connection.execute(connected).fetchone() is not None, 30, "the standby")
            assert derive(behind)["postgres_failover"].reason.startswith("with 1 standby and no")
            waits = {number: behind.copy_unvalidated(postgres_wait_standbys=number) for number in (1, 2)}
            assert derive(waits[1])["postgres_failover"].reason.startswith(
                "with POSTGRES_WAIT_STANDBYS=1 and 1 standby, "
            )
            assert [holds_of(waits[number], "postgres_failover") for number in waits] == [
                {"postgres_failover": "exact"},
                {"postgres_failover": "unknown"},
            ]
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            named = "SHOW synchronous_standby_names"
            wait_until(lambda: connection.execute(named).fetchone() == ("*",), 30, "the new setting")
        assert holds_of(behind, "postgres_failover") == {"postgres_failover": "exact"}
        with psycopg.connect(pair.primary.url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE narrow LOGIN PASSWORD '{SECRET}'")
        narrow = Ledger(pair.primary.url.replace(f"viewer:{pair.primary.password}@", f"narrow:{SECRET}@"))
        details = by_name(check_postgres_server(narrow))["postgres_durability"].details
        assert (details["standbys"], details["synchronous_standby_names"]) == (1, "*")
        url = pair.primary.url + "?options=-c%20synchronous_commit%3Dlocal"
        assert holds_of(behind.copy_unvalidated(database_url=url), "postgres_failover") == {
            "postgres_failover": "not exact"
        }
    finally:
        pair.stop()


def test_client_of_logical_replication_is_no_standby(settings: Settings, servers_home: Path) -> None:
    """It cannot take over."""
    server = PostgresServer(servers_home, throw_away=True, settings=["wal_level=logical"])
    server.start()
    try:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
            connection.execute("SELECT pg_create_logical_replication_slot('changes', 'pgoutput')")
            program = find_postgres_bin_directory() / "pg_recvlogical"
            options = ["--slot", "changes", "--start", "--no-loop", "--file", "-"]
            output = ["-o", "proto_version=1", "-o", "publication_names=everything"]
            command: list[str | Path] = [program, "--dbname", server.url, *options, *output]
            receiver = ManagedProcess("receiver", command, log=servers_home / "receiver.log")
            receiver.start()
            try:
                active = "SELECT FROM pg_stat_replication JOIN pg_replication_slots ON active_pid = pid"
                wait_until(lambda: connection.execute(active).fetchone() is not None, 30, receiver.log_tail())
                reason = derive(settings.copy_unvalidated(database_url=server.url))["postgres_failover"].reason
            finally:
                receiver.stop()
        assert reason.startswith("no standby is connected")
    finally:
        server.stop()


def test_report(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """What is exact first, then what is not, with what would change it; in 80 columns."""
    results = run_doctor_checks(settings)
    guarantee = derive_guarantee(results, settings.copy_unvalidated(target_table="Vod"))
    print_report(results, Console(width=80), guarantee=guarantee)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    heading = lines.index("whether every view counts once in this set-up, if …")
    rendered = [line.strip().split("  ")[0] for line in lines[heading + 1 :] if line[:2] == "  " != line[1:3]]
    assert rendered == sorted((fault.holds for fault in guarantee), key=HOLDS.index)
    text = " ".join(" ".join(lines[heading:]).split())
    assert "exact a row of Vod is missing, locked, or refuses its views: its views are parked" in text
    assert "remedy: appendonly yes" in text
