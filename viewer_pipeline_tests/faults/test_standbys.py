"""R18: a flush is settled only once standbys of PostgreSQL have it on disk. With a standby that really streams."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from viewer_pipeline.errors import (
    MarkerMoved,
    NotReplicated,
    PostgresRefusesWrites,
    PostgresUnavailable,
    SettingsError,
)
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.ledger import Ledger, require_standby_support
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.retirement import retire_pipeline
from viewer_pipeline.flush.standby_wait import StandbyWait
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.monitoring.doctor.postgres_checks import check_postgres_server
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, reconcile
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.managed_process import signal_processes
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.postgres_server import PostgresServer, find_postgres_bin_directory
from viewer_pipeline.stores.named_queries import fetch_one
from viewer_pipeline_tests.support import cluster_world
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.failover import STANDBY_REPORTS, PostgresPair
from viewer_pipeline_tests.support.pgbouncer import PgBouncer
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.worker_process import WorkerProcess
from viewer_pipeline_tests.support.world import PREFIX, World

SHORT, LONG = StandbyWait(1, timeout_ms=300), StandbyWait(1, timeout_ms=60_000)
ROUNDS = int(os.environ.get("VIEWER_TEST_WAITS", "1"))  # that are measured, after one that is not
COUNTERS = int(os.environ.get("VIEWER_TEST_COUNTERS", "300"))
SENDER = "SELECT pid FROM pg_stat_replication WHERE application_name = 'walreceiver'"
WAL_PAGE, WAL_PAGE_HEADER = 8192, 24  # bytes
RECEIVER = "SELECT pid FROM pg_stat_wal_receiver"
FUNCTION = "FUNCTION pg_catalog.pg_current_wal_flush_lsn()"


def waiting(world: World, wait: StandbyWait, url: str | None = None) -> World:
    """Return the world with a pipeline that waits for standbys."""
    made = World(Stores(world.stores.redis, Ledger(url or world.stores.ledger.url, standby_wait=wait)))
    made.sent = world.sent
    return made


@contextmanager
def administrator(pair: PostgresPair) -> Iterator[psycopg.Connection]:
    """Open a connection of the superuser to the primary, in the database of the pipeline."""
    with psycopg.connect(pair.primary.url, autocommit=True) as connection:
        yield connection


@contextmanager
def frozen(pair: PostgresPair, *, receiver: bool = False) -> Iterator[Callable[[], None]]:
    """Let the standby stay connected and receive nothing; yield a function that ends that.

    `receiver`: everything is sent to it, and it writes nothing.
    """
    pair.catch_up()
    server, process = (pair.standby, RECEIVER) if receiver else (pair.primary, SENDER)
    with psycopg.connect(server.url) as connection:
        ((pid,),) = connection.execute(process).fetchall()
    os.kill(pid, signal.SIGSTOP)

    def thaw() -> None:
        os.kill(pid, signal.SIGCONT)

    try:
        yield thaw
    finally:
        with suppress(ProcessLookupError):  # the primary was killed
            thaw()


def kill_primary(pair: PostgresPair) -> None:
    """End the primary as a crash of its machine does, without sending anything more to the standby."""
    signal_processes(pair.primary.process.descendant_pids(), signal.SIGKILL)


def fail_over(pair: PostgresPair) -> None:
    """Promote the standby; new connections reach it."""
    pair.promote()
    pair.lead_to(pair.standby)


def standby_has_flushes(pair: PostgresPair) -> int:
    """Return how many flushes the standby shows."""
    with psycopg.connect(pair.standby.url) as connection:
        rows = connection.execute("SELECT count(*) FROM viewer.flush").fetchall()
    return int(rows[0][0])


def test_a_flush_that_standbys_have_is_settled(postgres_pair: PostgresPair, behind: World) -> None:
    """In slices, beside the next transaction."""
    world = waiting(behind, LONG)
    for _ in range(2):
        world.send_many(9)
        assert len(world.flush().flushes) == 3
    world.assert_all_persisted()
    wait_until(lambda: standby_has_flushes(postgres_pair) == 6, 30, "the standby shows all flushes")


def test_a_flush_that_no_standby_has_stays_in_redis(postgres_pair: PostgresPair, behind: World) -> None:
    """No later run reads counters before it is settled; one settles it once the standby has it."""
    world = waiting(behind, SHORT)
    world.send_many(3)
    with frozen(postgres_pair):
        with pytest.raises(NotReplicated, match=r"STANDBYS=1: 0 of 1 standby had flush 1 on disk within 300 ms"):
            world.flush()
        assert world.counters() == dict(world.sent) == world.totals()
        world.send_many(3)
        with pytest.raises(NotReplicated, match="flush 1 on disk"):
            world.flush()
        assert world.seqs() == [1]
    settled = waiting(world, LONG).flush()
    assert (settled.notes.settled_before, world.seqs()) == (2, [1, 2])
    world.assert_all_persisted()


def test_a_cluster_is_settled_once_a_standby_has_the_flush(
    postgres_pair: PostgresPair, behind: World, redis_cluster: RedisCluster
) -> None:
    """Also what an earlier run left, before any counter of its shards is read."""
    with cluster_world.opened(redis_cluster, behind.stores.ledger.url) as cluster:
        stores = Stores(cluster.stores.redis, Ledger(behind.stores.ledger.url, standby_wait=SHORT))
        world = cluster_world.ClusterWorld(stores, redis_cluster)
        world.drain()  # makes all markers
        world.send_many(3)
        with frozen(postgres_pair):
            with pytest.raises(NotReplicated, match="flush 1 on disk"):
                world.flush()
            assert world.counters() == dict(world.sent) == world.totals()
            with pytest.raises(NotReplicated, match="flush 1 on disk"):
                world.flush()
            assert (world.seqs(), world.counters()) == ([1], dict(world.sent))
        world.stores.ledger.standby_wait = LONG
        assert world.flush().notes.settled_before == 3
        world.assert_all_persisted()


def test_what_was_sent_to_a_standby_is_not_on_its_disk(postgres_pair: PostgresPair, behind: World) -> None:
    """Nor is it safe if the standby takes over."""
    world = waiting(behind, SHORT)
    world.send_many(3)
    with frozen(postgres_pair, receiver=True):
        with pytest.raises(NotReplicated, match="0 of 1 standby had flush 1"):
            world.flush()
        with administrator(postgres_pair) as connection:
            is_sent = "SELECT sent_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication"
            wait_until(lambda: connection.execute(is_sent).fetchall() == [(True,)], 30, "the flush is sent")
        with pytest.raises(NotReplicated, match="0 of 1 standby had flush 1"):
            world.flush()
    waiting(world, LONG).flush()
    world.assert_all_persisted()


def test_the_wal_ends_at_the_end_of_a_page(postgres_pair: PostgresPair, behind: World) -> None:
    """The next record will begin behind the header of the next page. No standby has that before there is a record."""
    behind.send_many(3)
    behind.flush_unsettled()
    end = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
    has_all = "SELECT flush_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication"
    with administrator(postgres_pair) as connection:
        for number in itertools.count():
            length = 40 + 8 * (number % 50)
            connection.execute("SELECT pg_logical_emit_message(false, '', repeat('x', %s))", [length])
            if fetch_one(connection, end)[0] % WAL_PAGE == WAL_PAGE_HEADER:
                break
        wait_until(lambda: fetch_one(connection, has_all)[0], 30, "the standby has all")
    world = waiting(behind, StandbyWait(1, timeout_ms=3000))
    assert world.flush().notes.settled_before == 2
    world.assert_all_persisted()


def test_at_most_two_flushes_wait(postgres_pair: PostgresPair, behind: World) -> None:
    """The transaction beside the wait, and no other."""
    world = waiting(behind, SHORT)
    world.send_many(20)
    with frozen(postgres_pair):
        with pytest.raises(NotReplicated, match="flush 1 on disk"):
            world.flush()
        assert world.seqs() in ([1], [1, 2])
    waiting(world, LONG).flush()
    world.assert_all_persisted()


def test_a_step_that_is_tried_again_settles_its_flush(postgres_pair: PostgresPair, behind: World) -> None:
    """Dagster repeats it with the same snapshot."""
    world = waiting(behind, SHORT)
    world.send_many(3)
    snapshot, aggregated = world.drain()
    with frozen(postgres_pair), pytest.raises(NotReplicated):
        bulk_upsert(world.stores, snapshot, aggregated)
    report = bulk_upsert(waiting(world, LONG).stores, snapshot, aggregated)
    assert [row.seq for row in report.recovered] == [1]
    world.assert_all_persisted()


def test_the_standby_catches_up_in_time(postgres_pair: PostgresPair, behind: World) -> None:
    """The run waits, and settles."""
    world = waiting(behind, LONG)
    world.send_many(3)
    with frozen(postgres_pair) as thaw:
        done = world.in_thread()
        wait_until(lambda: world.seqs() == [1], 30, "the flush is committed")
        assert world.counters() == dict(world.sent)
        thaw()
        done.result(ENOUGH)
    world.assert_all_persisted()


@pytest.mark.parametrize("waits", [True, False])
def test_a_failover_loses_a_committed_flush(postgres_pair: PostgresPair, behind: World, waits: bool) -> None:
    """With the wait its views are still in Redis, and count once. Without, Redis has been lowered: they are lost."""
    world = waiting(behind, LONG) if waits else behind
    world.send_many(3)
    world.flush()
    world.send_many(3)
    with frozen(postgres_pair):
        done = world.in_thread()
        wait_until(lambda: world.seqs() == [1, 2], 30, "the flush is committed")
        if not waits:
            done.result(ENOUGH)
        kill_primary(postgres_pair)
        if waits:
            with pytest.raises(PostgresUnavailable):
                done.result(ENOUGH)
    fail_over(postgres_pair)
    behind.send_many(3)
    rolled_back = behind.flush().notes.postgres_rolled_back
    assert behind.counters() == {}
    assert (rolled_back, sum(behind.totals().values())) == ((False, 27) if waits else (True, 18))


@pytest.mark.parametrize("settles", ["run", "reconciliation", "retirement"])
def test_a_failover_loses_what_an_earlier_run_left(
    postgres_pair: PostgresPair, behind: World, tmp_path: Path, settles: str
) -> None:
    """Whatever settles it waits for the standby as well."""
    world = waiting(behind, SHORT)
    settling: dict[str, Callable[[], Any]] = {
        "run": world.flush,
        "reconciliation": lambda: reconcile(world.stores, ReconcileRequest(uuid4().hex, tmp_path, repair=True)),
        "retirement": lambda: retire_pipeline(world.stores.redis, PREFIX, settled_by=world.stores.ledger),
    }
    behind.send_many(3)
    with frozen(postgres_pair):
        behind.flush_unsettled()
        world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 1 WHERE vod_id = 'vod0000'")
        with pytest.raises(NotReplicated, match=r"had flush [12] on disk"):
            settling[settles]()
        assert world.counters() == dict(world.sent)
        fail_over(postgres_pair)
    assert behind.seqs() == []
    behind.flush()
    behind.assert_all_persisted()


@pytest.fixture
def cascading(postgres_pair: PostgresPair) -> Iterator[PostgresServer]:
    """Return a second standby, which follows the first one also when that is promoted."""
    first = urlsplit(postgres_pair.standby.url)
    login = f"host={first.hostname} port={first.port} user={first.username} password={first.password}"
    standby = postgres_pair.copy("three", f"primary_conninfo={login}")
    standby.start()
    try:
        yield standby
    finally:
        standby.stop()


@pytest.mark.usefixtures("cascading")
def test_the_address_leads_to_a_new_primary_without_the_flush(
    postgres_pair: PostgresPair, behind: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own standby confirms nothing about a flush that it does not have: that would lower Redis by lost views."""
    world = waiting(behind, LONG)
    world.send_many(3)
    commit = Ledger.commit

    def commit_and_fail_over(self: Ledger, *arguments: Any) -> Any:
        totals = commit(self, *arguments)
        fail_over(postgres_pair)
        with psycopg.connect(postgres_pair.standby.url, autocommit=True) as connection:
            has_standby = "SELECT FROM pg_stat_replication WHERE flush_lsn >= pg_current_wal_flush_lsn()"
            wait_until(lambda: connection.execute(has_standby).fetchone() is not None, 60, "its standby follows it")
        return totals

    with frozen(postgres_pair), monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", commit_and_fail_over)
        with pytest.raises(MarkerMoved, match="has lost flush 1"):
            world.flush()
    assert world.counters() == dict(world.sent)
    assert behind.seqs() == []
    world.flush()
    world.assert_all_persisted()


def test_without_a_standby_nothing_is_committed(postgres_pair: PostgresPair, behind: World) -> None:
    """So a reader sees no flush twice while the standby is away. The next run continues when it is back."""
    world = waiting(behind, LONG)
    world.send_many(3)
    postgres_pair.standby.stop()
    with administrator(postgres_pair) as connection:
        wait_until(lambda: connection.execute(SENDER).fetchone() is None, 30, "the standby is gone")
        with pytest.raises(NotReplicated, match="POSTGRES_WAIT_STANDBYS=1: 0 standbys connected"):
            world.flush()
        assert (world.seqs(), world.counters()) == ([], dict(world.sent))
        postgres_pair.standby.start()
        wait_until(lambda: connection.execute(STANDBY_REPORTS).fetchone() is not None, 60, "the standby is back")
    world.flush()
    world.assert_all_persisted()


def test_two_standbys_are_required_and_one_is_connected(behind: World) -> None:
    """The number counts."""
    world = waiting(behind, StandbyWait(2, timeout_ms=300))
    world.send_many(3)
    with pytest.raises(NotReplicated, match="POSTGRES_WAIT_STANDBYS=2: 1 standby connected"):
        world.flush()


def test_other_receivers_of_the_wal_are_no_standbys(postgres_pair: PostgresPair, behind: World, tmp_path: Path) -> None:
    """pg_receivewal with a slot reports what it has on disk, as base backups do, and cannot take over."""
    world = waiting(behind, SHORT)
    world.send_many(3)
    options: list[str | Path] = [
        "--create-slot",
        "--slot=archive",
        "-d",
        postgres_pair.primary.url_of_database("postgres"),
    ]
    command: list[str | Path] = [find_postgres_bin_directory() / "pg_receivewal", "-D", tmp_path, *options]
    subprocess.run(command, check=True)
    with subprocess.Popen([*command[:3], "--synchronous", *options[1:]]) as receiver:
        try:
            with administrator(postgres_pair) as connection:
                has_all = (
                    "SELECT flush_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication"
                    " WHERE application_name = 'pg_receivewal'"
                )
                confirms = lambda: connection.execute(has_all).fetchall() == [(True,)]  # noqa: E731 - of two waits
                wait_until(confirms, 30, "it confirms")
                with frozen(postgres_pair):
                    with pytest.raises(NotReplicated, match="0 of 1 standby had flush 1"):
                        world.flush()
                    wait_until(confirms, 30, "it confirms the flush")
        finally:
            receiver.terminate()
    assert world.counters() == dict(world.sent)


@contextmanager
def role_of(pair: PostgresPair, *statements: str) -> Iterator[str]:
    """Yield the URL of a role that may use the ledger, after these statements."""
    name, password = "narrow", secrets.token_hex(8)
    with administrator(pair) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        connection.execute(f"GRANT USAGE ON SCHEMA viewer TO {name}")
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA viewer TO {name}")
        for statement in statements:
            connection.execute(statement)
    yield pair.url.replace(f"viewer:{pair.primary.password}@", f"{name}:{password}@")


def test_a_role_that_may_not_see_standbys_is_refused(postgres_pair: PostgresPair, behind: World) -> None:
    """At the start, and by each run before it reads anything. The right of the remedy is enough."""
    with role_of(postgres_pair) as url, administrator(postgres_pair) as connection:
        settings = Settings(database_url=url, postgres_wait_standbys=1)
        world = waiting(behind, LONG, url)
        world.send_many(3)
        expected = r'POSTGRES_WAIT_STANDBYS=1: postgresql://.* members of pg_monitor only, and "narrow" is none'
        with pytest.raises(SettingsError, match=expected) as raised:
            require_standby_support(settings)
        with pytest.raises(SettingsError, match=expected):
            world.flush()
        result = by_name(check_postgres_server(Ledger.of(settings)))["postgres_durability"]
        assert (result.status, result.details["can_wait"]) == ("unhealthy", False)
        assert "members of pg_monitor only" in result.message
        assert world.marker() is None
        connection.execute(raised.value.remedy)
        require_standby_support(settings)
        world.flush()
        world.assert_all_persisted()
        assert by_name(check_postgres_server(Ledger.of(settings)))["postgres_durability"].details["can_wait"]
        connection.execute(f"REVOKE EXECUTE ON {FUNCTION} FROM PUBLIC")
        with pytest.raises(SettingsError, match="does not report what it has on disk: permission denied for f"):
            require_standby_support(settings)


def test_commands_refuse_at_the_start(
    postgres_pair: PostgresPair, behind: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`flush` and `up` with a sentence and a remedy; a worker logs it, and continues to write messages into Redis."""
    behind.send_many(3)
    with role_of(postgres_pair, "GRANT viewer TO narrow") as url:  # `up` migrates as the owner
        variables = {"POSTGRES_WAIT_STANDBYS": "1", "DATABASE_URL": url, "REDIS_URL": behind.stores.redis.url}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for command in (["flush"], ["up"]):
            monkeypatch.setenv("VIEWER_HOME", str(tmp_path / command[0]))
            monkeypatch.setenv("HEALTH_CHECK_PORT", str(find_free_port()))
            # In this process, `up` would leave its signal handlers to other tests.
            program = [sys.executable, "-m", "viewer_pipeline.cli", *command]
            refused = subprocess.run(program, capture_output=True, text=True, check=False)
            assert refused.returncode == 2, refused.stderr
            assert 'GRANT pg_monitor TO "narrow"' in refused.stderr.replace("\n", " ")
        with WorkerProcess(tmp_path, url, behind.stores.redis.url, POSTGRES_WAIT_STANDBYS="1") as worker:
            wait_until(lambda: worker.has_logged("flushes_impossible"), 60, "the worker reports it")
            worker.wait_until_ready()
            worker.stop()
        assert "stays in Redis" in worker.last_event()["last_flush"]
    assert (behind.counters(), behind.seqs()) == (dict(behind.sent), [])


def test_what_is_not_refused_at_the_start(postgres_pair: PostgresPair) -> None:
    """No wait, or a server that may be another one when a run begins: runs fail until it is."""
    with role_of(postgres_pair) as url:
        require_standby_support(Settings(database_url=url))
    unreachable = "postgresql://127.0.0.1:1/none?connect_timeout=2"
    for url in (unreachable, postgres_pair.standby.url):
        require_standby_support(Settings(database_url=url, postgres_wait_standbys=1))
    with pytest.raises(PostgresRefusesWrites), Ledger(postgres_pair.standby.url, standby_wait=LONG).connect():
        pass


def test_through_a_pooler(postgres_pair: PostgresPair, behind: World, tmp_path: Path) -> None:
    """Each query of the wait may use another session. One that reaches a new primary without the flush is noticed."""
    pooler = PgBouncer(tmp_path / "pgbouncer", postgres_pair.primary.url, postgres_pair.proxy.port)
    pooler.start()
    try:
        world = waiting(behind, LONG, pooler.url())
        world.send_many(9)
        world.flush()
        behind.assert_all_persisted()
        world.send_many(3)
        with frozen(postgres_pair):
            done = world.in_thread()
            wait_until(lambda: behind.seqs() == [1, 2, 3, 4], 30, "the flush is committed")
            assert sum(world.counters().values()) == 9
            fail_over(postgres_pair)
            postgres_pair.end_connections()
            with pytest.raises((MarkerMoved, PostgresUnavailable)):
                done.result(ENOUGH)
    finally:
        pooler.stop()
    assert behind.seqs() == [1, 2, 3]
    behind.flush()
    behind.assert_all_persisted()


def test_cost_of_the_wait(
    servers_home: Path, client: Any, redis_url: str, add_to_summary: Callable[[str], None]
) -> None:
    """Without a standby, with one, and with one that flushes wait for: in turn, on servers that sync."""
    alone, pair = PostgresServer(servers_home / "alone", throw_away=False), PostgresPair(servers_home, throw_away=False)
    flush_seconds, settle_seconds = (dict[str, list[float]]() for _ in range(2))
    try:
        alone.start()
        migrate(alone.url, with_dagster=False)
        pair.start()
        ledgers = {
            "without a standby": ("alone:", Ledger(alone.url)),
            "a standby": (PREFIX, Ledger(pair.primary.url)),
            "a standby that flushes wait for": (PREFIX, Ledger(pair.primary.url, standby_wait=LONG)),
        }
        for _ in range(ROUNDS + 1):
            for name, (prefix, ledger) in ledgers.items():
                world = World(Stores(RedisStore(client, redis_url, prefix), ledger), prefix)
                client.mset({f"{prefix}clx{number:08d}k3j4h5g6f7d8s9": 1 for number in range(COUNTERS)})
                started = time.perf_counter()
                report = world.flush(batch_size=100, flush_max_counters=10_000)
                flush_seconds.setdefault(name, []).append(time.perf_counter() - started)
                settle_seconds.setdefault(name, []).append(report.settle_seconds)
                assert world.counters() == {}
    finally:
        pair.stop()
        alone.stop()
    times = "; ".join(
        f"{name} {median(seconds[1:]):.3f} s, of it settling beside transactions {median(settle_seconds[name][1:]):.3f}"
        for name, seconds in flush_seconds.items()
    )
    add_to_summary(f"flush of {COUNTERS} counters, {ROUNDS} rounds: {times}")
