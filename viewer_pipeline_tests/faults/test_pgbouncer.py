"""The pipeline behind a PgBouncer that pools transactions: every view is counted once."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner

from viewer_pipeline.cli.main import main
from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.flush import transaction
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.rejects import Reject, record_message_rejects
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.history.baseline import take_baseline_from_target
from viewer_pipeline.history.daily_rollup import find_windows_to_roll_up
from viewer_pipeline.history.pruning import Pruned, prune_ledger
from viewer_pipeline.migrations.migrate import migrate, migrate_all
from viewer_pipeline.monitoring.dagster_rules import NEVER_RAN
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.orchestration.storage_engine import dispose_engines
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, ReconcileResult, reconcile
from viewer_pipeline.reconcile.undo import undo_adjustment
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.faults.test_together import flush_until
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.pgbouncer import POOL_SIZE, PgBouncer
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.servers import Postgres
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.totals_statements import MERGE, UPSERT, uses_merge
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

FLUSHERS = 6
SENDS = 3000
COMMIT = b"COMMIT\x00"  # the statement, not a level of isolation
SETTINGS = """
    SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),
        current_setting('idle_in_transaction_session_timeout'), current_setting('search_path')
"""
TRACES = """
    SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('work_mem'),
        current_setting('enable_seqscan'), current_setting('jit'), current_setting('transaction_isolation'),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
"""
INSERT_PARKED = """
    INSERT INTO viewer.parked (vod_id, views, reason, last_flush, updated_at)
    VALUES (%s, 1, current_setting('timezone'), 1, now())
"""
NONE = ("0", "0", "4MB", "on", "on", "read committed", 0)
DEFAULTS = ("0", "0", "0", '"$user", public')


@pytest.fixture
def pgbouncer(tmp_path: Path, database_url: str) -> Iterator[PgBouncer]:
    """Start PgBouncer in front of the database of the test."""
    yield from started(PgBouncer(tmp_path / "pgbouncer", database_url))


@pytest.fixture
def pooled(world: World, pgbouncer: PgBouncer) -> World:
    """The same stores, with the ledger behind PgBouncer; assertions read PostgreSQL itself."""
    return behind(world, pgbouncer)


def started(pgbouncer: PgBouncer) -> Iterator[PgBouncer]:
    """Run PgBouncer during the test."""
    try:
        pgbouncer.start()
        yield pgbouncer
    finally:
        pgbouncer.stop()


def behind(world: World, pgbouncer: PgBouncer, parameters: str = "pgbouncer=true") -> World:
    """Return a world whose ledger is behind PgBouncer."""
    return World(Stores(world.stores.redis, Ledger(pgbouncer.url(parameters))))


def settings_of(pgbouncer: PgBouncer, redis_url: str, home: Path) -> Settings:
    """Return the settings of an operator who has Prisma's `url`."""
    url = pgbouncer.url("schema=public&pgbouncer=true&connection_limit=1&pool_timeout=10&connect_timeout=5")
    return Settings(database_url=url, redis_url=redis_url, viewer_home=home)


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_a_pooler_that_the_url_does_not_mention(world: World, tmp_path: Path, pool_mode: str) -> None:
    """It refuses the startup parameter `options`, and none is sent; no setting outlives a transaction."""
    url = world.stores.ledger.url
    for pgbouncer in started(PgBouncer(tmp_path / "pgbouncer", url, pool_mode=pool_mode)):
        pooled = behind(world, pgbouncer, "schema=public&options=-c%20lock_timeout%3D7s")
        for _ in range(3):
            world.send_many(40)
            assert len(pooled.flush().flushes) == 10
        with pooled.stores.ledger.connect() as connection, psycopg.connect(pgbouncer.url("")) as other:
            for _ in range(8):  # from then on psycopg would prepare the statement
                assert connection.execute(SETTINGS).fetchone() == ("1min", "7s", "1min", '"public"')
            assert other.execute(SETTINGS).fetchone() == DEFAULTS
        if pool_mode == "transaction":
            assert session_state(pgbouncer) == {NONE}
    world.assert_all_persisted()


def test_migrations(postgres_server: Postgres, tmp_path: Path) -> None:
    """Of several that start through it concurrently, one migrates; the others find nothing to do."""
    name = "fresh_" + os.urandom(6).hex()
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        for pgbouncer in started(PgBouncer(tmp_path / "pgbouncer", postgres_server.url_of_database(name))):
            apply = partial(migrate, with_dagster=False)
            with ThreadPoolExecutor(4) as pool:
                results = list(pool.map(apply, [pgbouncer.url()] * 4))
            assert sorted(before is None for before, _ in results) == [False, False, False, True]
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_flushes(world: World, pooled: World) -> None:
    """Enough flushes for psycopg to prepare statements, and runs that share connections."""
    for _ in range(3):
        world.send_many(40)
        assert len(pooled.flush().flushes) == 10
    world.assert_all_persisted()
    with world.stores.ledger.connect() as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()").fetchone()
    assert row is not None
    assert row[0] <= POOL_SIZE + 1


def test_concurrent_flushers(world: World, pgbouncer: PgBouncer, redis_url: str) -> None:
    """More flushers than connections of the pool, and a producer: every view is persisted once."""
    stopped, collisions = threading.Event(), list[int]()
    with ThreadPoolExecutor(FLUSHERS) as pool:
        running = [pool.submit(flush_until, stopped, collisions, redis_url, pgbouncer.url()) for _ in range(FLUSHERS)]
        for number in count():
            if number >= SENDS and (collisions or any(future.done() for future in running)):
                break
            world.send(f"vod{number % 30:04d}", 1 + number % 3)
        stopped.set()
        for future in running:
            future.result()
    behind(world, pgbouncer).flush()
    world.assert_all_persisted()
    assert collisions


def test_settings_apply_to_every_statement_and_stay_with_nobody(world: World, pgbouncer: PgBouncer) -> None:
    """Inside a transaction and outside, whatever the database sets; the next user of the connection gets its values."""
    world.execute(f"ALTER DATABASE {urlsplit(world.stores.ledger.url).path[1:]} SET datestyle = 'SQL, DMY'")
    world.execute(f"ALTER DATABASE {urlsplit(world.stores.ledger.url).path[1:]} SET timezone = 'Asia/Kathmandu'")
    ours = ("1min", "20s", "1min", '"My Schema"')
    pooled = behind(world, pgbouncer, "pgbouncer=true&schema=My%20Schema")
    style = "SELECT split_part(current_setting('datestyle'), ',', 1) FROM generate_series(1, 2)"
    with pooled.stores.ledger.connect() as connection, connection.cursor() as cursor:
        for _ in range(8):
            with connection.transaction():
                assert connection.execute(SETTINGS).fetchone() == ours
                connection.execute("SET LOCAL lock_timeout = '50ms'")
                with connection.transaction():
                    assert connection.execute("SHOW lock_timeout").fetchone() == ("50ms",)
            assert connection.execute(SETTINGS).fetchone() == ours
            assert {row[0] for row in cursor.stream(style)} == {"ISO"}
            with cursor.copy(f"COPY ({style}) TO STDOUT") as copy:
                assert {row[0] for row in copy.rows()} == {"ISO"}
            cursor.executemany(INSERT_PARKED, [["a"], ["b"]])
            assert connection.execute("DELETE FROM viewer.parked RETURNING reason").fetchall() == [("UTC",)] * 2
            with psycopg.connect(pgbouncer.url("")) as other:
                assert other.execute(SETTINGS).fetchone() == DEFAULTS
    with behind(world, pgbouncer, "pgbouncer=true&socket_timeout=7").stores.ledger.connect() as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("7s",)


def test_the_wait_for_a_lock_ends(world: World, pgbouncer: PgBouncer) -> None:
    """The lock timeout in `options` ends the flush's transaction at the server; nothing is lost."""
    world.send_many(3)
    with psycopg.connect(world.stores.ledger.url) as other:
        other.execute("LOCK TABLE viewer.vod_view_counts IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(PostgresUnavailable, match="lock timeout"):
            behind(world, pgbouncer, "pgbouncer=true&options=-c%20lock_timeout%3D200ms").flush()
    assert world.counters() == dict(world.sent)
    behind(world, pgbouncer).flush()
    world.assert_all_persisted()


def test_a_statement_outside_a_transaction_times_out_at_the_server(world: World, pgbouncer: PgBouncer) -> None:
    """It runs in a transaction of its own."""
    pooled = behind(world, pgbouncer, "pgbouncer=true&socket_timeout=4").stores.ledger
    with pytest.raises(PostgresUnavailable, match="statement timeout"), pooled.connect() as connection:
        connection.execute("SELECT pg_sleep(30)")


def test_rejects_of_messages(world: World, pooled: World) -> None:
    """They are counted and recorded in one transaction, under a lock of that transaction."""
    rejects = [Reject.of("message", f"m{number}".encode(), b"x", "no JSON") for number in range(5)]
    with pooled.stores.ledger.connect() as connection:
        assert record_message_rejects(connection, rejects, max_rows_per_reason=3) == 3
        assert record_message_rejects(connection, rejects, max_rows_per_reason=3) == 0
    assert world.rejected() == {f"m{number}": "no JSON" for number in range(3)}


def test_the_commands(
    world: World, pgbouncer: PgBouncer, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migrate, flush, status and acknowledge; Dagster's storage is behind it as well."""
    for name, value in settings_of(pgbouncer, redis_url, tmp_path).child_process_environment().items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> Any:
        result = CliRunner().invoke(main, [*words, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    migrated = run("migrate")
    assert migrated["before"] == migrated["after"]
    world.send_many(5)
    assert run("flush")["success"] is True
    world.assert_all_persisted()
    world.client.delete("viewer:settled")
    world.send_many(2)
    behind(world, pgbouncer).flush()
    status = run("status")
    assert (status["persisted"], status["held_views"], status["settled"]) == (15, 6, True)
    assert run("held", "count")["decided"] == {"vods": 2, "views": 6}
    world.assert_all_persisted()
    assert status["checks"]["daemon_sensor"]["message"] == "no heartbeat was ever recorded"  # in tables that exist
    assert [incident["kind"] for incident in status["incidents"]] == ["redis_emptied"]
    assert run("acknowledge") == {"acknowledged": 1}


def test_baseline_reconciliation_and_undo(vods: TargetWorld, pgbouncer: PgBouncer, tmp_path: Path) -> None:
    """Snapshots, locks and server-side cursors stay within one transaction, and leave no session state."""
    pooled = TargetWorld(behind(vods, pgbouncer).stores)
    vods.add_vods("a", "b", count=100)
    with pooled.stores.ledger.connect() as connection:
        assert take_baseline_from_target(connection, pooled.stores.ledger).views == 200
    for vod_id in ("a", "b"):
        pooled.send(vod_id, 5)
    pooled.flush()
    vods.execute("UPDATE viewer.vod_view_counts SET view_count = 1 WHERE vod_id = 'a'")
    vods.execute("""UPDATE public."Vod" SET "viewCount" = 7 WHERE id = 'b'""")
    vods.execute(
        "INSERT INTO viewer.vod_view_counts SELECT 'x' || n, 9, 0, 0, now() FROM generate_series(1, 2000) AS n"
    )

    def run() -> ReconcileResult:
        return reconcile(
            pooled.stores, ReconcileRequest(uuid4().hex, tmp_path / "reports", repair=True, exclusive=True)
        )

    repaired = run()
    assert (repaired.repaired["total"], repaired.repaired["target"], repaired.remaining) == (2001, 1, 0)
    assert vods.target() == {"a": 105, "b": 105}
    with pooled.stores.ledger.connect() as connection:
        undo_adjustment(
            Adjuster(pooled.stores, connection, "undo", 100),
            pooled.stores.ledger.target(connection),
            repaired.flushes[-1],
        )
    assert vods.target() == {"a": 105, "b": 7}
    assert run().repaired["target"] == 1
    assert sum(run().differences.values()) == 0
    assert session_state(pgbouncer) == {NONE}


def test_daily_views_and_retention(world: World, pooled: World, pgbouncer: PgBouncer) -> None:
    """Each day is rolled up under a lock of its transaction; old rows are pruned in chunks."""
    history, first = History(pooled), date(2026, 3, 1)
    for number in range(3):
        history.flush(at(first + ONE * number), {"a": number + 1, "b": 1})
    for _ in range(6):  # from then on psycopg would prepare the statements
        assert len(history.roll_up(first, first + ONE * 3).rolled_up) == 3
    expected = {(first + ONE * number, vod_id): 1 for number in range(3) for vod_id in ("a", "b")}
    expected |= {(first + ONE * number, "a"): number + 1 for number in range(3)}
    assert History(world).daily() == expected
    assert history.call(find_windows_to_roll_up, first, first + ONE * 2, history.zone) == []
    assert history.call(prune_ledger, first + ONE * 2, [Marker(3, 1, 1)], 60, history.zone) == Pruned(2, 2, 5)
    assert (world.seqs(), History(world).daily()) == ([3], expected)
    assert session_state(pgbouncer) == {NONE}


@pytest.mark.parametrize(
    ("pool_mode", "ignores_options"), [("transaction", False), ("session", False), ("session", True)]
)
def test_dagster_behind_a_pooler_that_the_url_does_not_mention(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool_mode: str, ignores_options: bool
) -> None:
    """Its tables are created in its schema, a flush is recorded there, and no session keeps a setting."""
    pooler = PgBouncer(
        tmp_path / "pgbouncer",
        world.stores.ledger.url,
        pool_mode=pool_mode,
        pool_size=POOL_SIZE if pool_mode == "transaction" else 20,
        ignores_options=ignores_options,
    )
    for pgbouncer in started(pooler):
        monkeypatch.setenv("DATABASE_URL", pgbouncer.url("schema=public"))
        monkeypatch.setenv("REDIS_URL", world.stores.redis.url)
        monkeypatch.setenv("VIEWER_HOME", str(tmp_path / "home"))
        world.send_many(5)
        result = CliRunner().invoke(main, ["flush", "--json"])
        assert result.exit_code == 0, result.output
        world.assert_all_persisted()
        assert world.rows("SELECT status FROM dagster.runs") == [("SUCCESS",)]
        assert world.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
        if pool_mode == "transaction":
            assert session_state(pgbouncer) == {NONE}
            with psycopg.connect(pgbouncer.url("")) as other:
                assert other.execute(SETTINGS).fetchone() == DEFAULTS
        dispose_engines()


def session_state(pgbouncer: PgBouncer) -> set[Any]:
    """Return the session settings and locks on the connections of the pool."""
    with ExitStack() as stack:  # each holds a transaction, and thereby a connection of the pool
        clients = [stack.enter_context(psycopg.connect(pgbouncer.url(""))) for _ in range(POOL_SIZE)]
        return {client.execute(TRACES).fetchone() for client in clients}


def test_the_probes_of_a_worker(world: World, pgbouncer: PgBouncer, redis_url: str, tmp_path: Path) -> None:
    """Health reads the ledger and Dagster's tables through it."""
    settings = settings_of(pgbouncer, redis_url, tmp_path)
    migrate_all(settings)
    world.send_many(3)
    behind(world, pgbouncer).flush()
    probes = HealthProbes(settings)
    try:
        for _ in range(7):
            results = by_name([*probes.check_postgres(), *probes.check_settling(), *probes.check_freshness()])
        statuses = {name: results[name].status for name in ("marker", "unsettled", "incidents", "freshness")}
        assert statuses == dict.fromkeys(statuses, "healthy")
        assert "accepts writes" in results["postgres"].message
        assert by_name(probes.check_dagster())["daemon_sensor"].message == NEVER_RAN
    finally:
        probes.close()


def test_a_restart_between_two_flushes(world: World, pgbouncer: PgBouncer, pooled: World) -> None:
    """The next run opens a new connection."""
    for _ in range(2):
        world.send_many(7)
        pooled.flush()
        pgbouncer.restart()
    world.send("late")
    pooled.flush()
    world.assert_all_persisted()


@pytest.mark.parametrize("step", ["claim_flush_number", "copy_batches", MERGE.function])
def test_a_restart_within_a_transaction(
    world: World, pgbouncer: PgBouncer, pooled: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """PostgreSQL rolls back; the run fails, and the next one counts everything once."""
    world.send_many(7)
    if not uses_merge(world):
        step = step.replace(MERGE.function, UPSERT.function)
    original, restarts = getattr(transaction, step), list[int]()

    def restart_and_continue(*arguments: Any) -> Any:
        result = original(*arguments)
        if not restarts:
            restarts.append(1)
            pgbouncer.restart()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(transaction, step, restart_and_continue)
        with pytest.raises(PostgresUnavailable):
            pooled.flush()
    assert (restarts, world.seqs()) == ([1], [])
    pooled.flush()
    world.assert_all_persisted()


Where = Callable[[World, Path], Iterator[tuple[Proxy, World]]]


def before_pgbouncer(world: World, home: Path) -> Iterator[tuple[Proxy, World]]:
    """Put the fault between us and PgBouncer."""
    for pgbouncer in started(PgBouncer(home / "pgbouncer", world.stores.ledger.url)):
        with Proxy.of(pgbouncer.url(), 6432) as proxy:
            url = proxy.url(pgbouncer.url())
            yield proxy, World(Stores(world.stores.redis, Ledger(url)))


def behind_pgbouncer(world: World, home: Path) -> Iterator[tuple[Proxy, World]]:
    """Put the fault between PgBouncer and PostgreSQL."""
    with Proxy.of(world.stores.ledger.url, 5432) as proxy:
        for pgbouncer in started(PgBouncer(home / "pgbouncer", world.stores.ledger.url, proxy.port)):
            yield proxy, behind(world, pgbouncer)


def before_commit(monkeypatch: pytest.MonkeyPatch, arm: Callable[[], None]) -> None:
    """Call `arm` once in the transaction of a flush: the statements before it have transactions of their own."""
    original, armed = transaction.copy_batches, list[int]()

    def copy_and_arm(*arguments: Any) -> None:
        original(*arguments)
        if not armed:
            armed.append(1)
            arm()

    monkeypatch.setattr(transaction, "copy_batches", copy_and_arm)


@pytest.mark.parametrize("where", [before_pgbouncer, behind_pgbouncer])
def test_the_reply_to_a_commit_is_lost(
    world: World, tmp_path: Path, where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flush is looked up on a new connection and found: settled, and counted once."""
    for proxy, pooled in where(world, tmp_path):
        world.send_many(3)
        before_commit(monkeypatch, partial(proxy.lose_reply_to, COMMIT))
        assert isinstance(pooled.flush(), RunReport)
        assert (proxy.lost_replies, world.seqs(), world.counters()) == (1, [1], {})
        world.send_many(5)
        assert pooled.flush().notes.settled_before == 0
    world.assert_all_persisted()


@pytest.mark.parametrize("where", [before_pgbouncer, behind_pgbouncer])
def test_a_commit_that_never_arrives(
    world: World, tmp_path: Path, where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flush is looked up and not found: the run fails, PostgreSQL rolls back, the next run counts once."""
    for proxy, without_timeout in where(world, tmp_path):
        pooled = World(Stores(world.stores.redis, Ledger(f"{without_timeout.stores.ledger.url}&socket_timeout=1")))
        world.send_many(3)
        snapshot = drain(pooled.stores, pooled.request())
        before_commit(monkeypatch, partial(proxy.fall_silent_at, COMMIT, deliver=False))
        with pytest.raises(PostgresUnavailable, match=r"no answer within 1\.25 s"):
            bulk_upsert(pooled.stores, snapshot, aggregate(snapshot.readings))
        assert proxy.silenced == 1
        assert world.seqs() == []
        proxy.heal()
        wait_until(lambda: not idle_in_transaction(world), 20, "the transaction to end")
        pooled.flush()
    world.assert_all_persisted()


def idle_in_transaction(world: World) -> list[Any]:
    """Return the connections with an open transaction."""
    return world.rows(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )
