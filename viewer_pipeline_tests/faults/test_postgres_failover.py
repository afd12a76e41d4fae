"""A PostgreSQL that refuses writes: a standby, or a primary that was made read-only and keeps its connections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from viewer_pipeline.errors import PostgresRefusesWrites, PostgresUnavailable
from viewer_pipeline.flush import transaction
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.rejects import Reject, record_new_rejects
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stores.postgres_errors import postgres_errors
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.failover import PostgresPair
from viewer_pipeline_tests.support.pgbouncer import PgBouncer
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

COMMIT = b"COMMIT\x00"


def test_the_address_leads_to_a_standby(postgres_pair: PostgresPair, behind: World) -> None:
    """Its ledger lags: the run neither uses it nor opens an incident, and the next attempt continues."""
    behind.send_many(3)
    behind.flush()
    postgres_pair.catch_up()
    postgres_pair.fall_behind()
    behind.send_many(3)
    behind.flush()
    behind.send_many(3)
    postgres_pair.lead_to(postgres_pair.standby)
    with pytest.raises(PostgresRefusesWrites, match="it is in recovery"):
        behind.flush()
    postgres_pair.lead_to(postgres_pair.primary)
    done = behind.flush()
    assert not done.notes.postgres_rolled_back
    assert done.notes.settled_before == 0
    behind.assert_all_persisted()


def test_a_standby_is_detected_whatever_error_it_raises(postgres_pair: PostgresPair) -> None:
    """A lock, and the isolation level serializable as default, fail there before anything else is known of it."""
    with Ledger(postgres_pair.standby.url).connect(any_server=True) as connection, pytest.raises(pg.Error) as raised:
        connection.execute("LOCK TABLE viewer.flush IN SHARE ROW EXCLUSIVE MODE")
    with pytest.raises(PostgresRefusesWrites), postgres_errors(postgres_pair.standby.url):
        raise raised.value
    with psycopg.connect(postgres_pair.primary.url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET default_transaction_isolation = serializable")
    postgres_pair.catch_up()
    with pytest.raises(PostgresRefusesWrites), Ledger(postgres_pair.standby.url).connect():
        pass


@pytest.mark.parametrize("first", ["primary", "standby"])
def test_a_pooler_caches_the_parameters_of_its_first_server(
    postgres_pair: PostgresPair, tmp_path: Path, first: str
) -> None:
    """PgBouncer caches session parameters: a standby must not pass for a primary, or the reverse."""
    pooler = PgBouncer(tmp_path / "pgbouncer", postgres_pair.primary.url, postgres_pair.proxy.port)
    ledger = Ledger(pooler.url())
    servers = (
        [postgres_pair.primary, postgres_pair.standby]
        if first == "primary"
        else [postgres_pair.standby, postgres_pair.primary]
    )
    postgres_pair.lead_to(servers[0])
    pooler.start()
    try:
        for server in servers:
            postgres_pair.lead_to(server)
            postgres_pair.end_connections()
            wait_until(lambda at=server: leads_to(pooler, at, postgres_pair), 30, "the pooler connects again")  # type: ignore[misc]
            if server is postgres_pair.primary:
                with ledger.connect():
                    pass
            else:
                with pytest.raises(PostgresRefusesWrites, match="it is in recovery"), ledger.connect():
                    pass
    finally:
        pooler.stop()


def leads_to(pooler: PgBouncer, server: PostgresServer, postgres_pair: PostgresPair) -> bool:
    """Whether the next statement through the pooler reaches this server."""
    try:
        with psycopg.connect(pooler.url(""), autocommit=True) as connection:
            return connection.execute("SELECT pg_is_in_recovery()").fetchone() == (server is postgres_pair.standby,)
    except psycopg.OperationalError:
        return False


def test_a_primary_turns_read_only_within_a_step(postgres_pair: PostgresPair, behind: World) -> None:
    """The step fails and may be retried; it then reaches the new primary. Nothing is counted twice."""
    behind.send_many(7)
    snapshot = drain(behind.stores, behind.request())
    aggregated = aggregate(snapshot.readings)
    with behind.stores.ledger.connect() as connection:
        postgres_pair.catch_up()
        postgres_pair.fence()
        with pytest.raises(pg.ReadOnlySqlTransaction):
            record_new_rejects(connection, [Reject.of("message", b"x", b"", "a test")])
        assert connection.closed  # whatever the step does next, not on this connection
    with pytest.raises(PostgresRefusesWrites, match="read-only"):
        bulk_upsert(behind.stores, snapshot, aggregated)
    postgres_pair.promote()
    postgres_pair.lead_to(postgres_pair.standby)
    persisted = bulk_upsert(behind.stores, snapshot, aggregated)
    assert all(check.passed for check in verify(behind.stores, persisted))
    behind.assert_all_persisted()


def test_between_two_flushes_of_a_step(
    postgres_pair: PostgresPair, behind: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first flush is committed and settled, the second refused: the next attempt continues from the ledger."""
    behind.send_many(7)
    snapshot = drain(behind.stores, behind.request())
    aggregated = aggregate(snapshot.readings)
    commit = Ledger.commit

    def commit_and_fence(self: Ledger, *arguments: Any) -> Any:
        totals = commit(self, *arguments)
        postgres_pair.catch_up()
        postgres_pair.fence()
        return totals

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", commit_and_fence)
        with pytest.raises(PostgresRefusesWrites, match=r"cannot execute .* in a read-only transaction"):
            bulk_upsert(behind.stores, snapshot, aggregated)
    assert behind.seqs() == [1]
    postgres_pair.promote()
    postgres_pair.lead_to(postgres_pair.standby)
    bulk_upsert(behind.stores, snapshot, aggregated)
    behind.assert_all_persisted()


def test_a_lagging_standby_does_not_resolve_a_commit(
    postgres_pair: PostgresPair, behind: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: its missing flush proves nothing. The outcome stays unknown, and the next run resolves it."""
    behind.send_many(3)
    snapshot = drain(behind.stores, behind.request())
    postgres_pair.catch_up()
    postgres_pair.fall_behind()
    copy = transaction.copy_batches

    def copy_and_lead_away(*arguments: Any) -> None:
        copy(*arguments)
        postgres_pair.proxy.lose_reply_to(COMMIT)
        postgres_pair.lead_to(postgres_pair.standby)

    with monkeypatch.context() as patch:
        patch.setattr(transaction, "copy_batches", copy_and_lead_away)
        with pytest.raises(PostgresRefusesWrites, match=r"in recovery .*, so whether flush .* is not known"):
            bulk_upsert(behind.stores, snapshot, aggregate(snapshot.readings))
    assert postgres_pair.proxy.lost_replies == 1
    assert behind.counters() == dict(behind.sent)
    postgres_pair.lead_to(postgres_pair.primary)
    assert behind.seqs() == [1]
    assert behind.flush().notes.settled_before == 2
    behind.assert_all_persisted()


def test_a_commit_that_the_new_primary_never_received(
    postgres_pair: PostgresPair, behind: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: the old primary, now read-only, has the flush. If it resolved the COMMIT, its views would be lost."""
    behind.send_many(3)
    snapshot = drain(behind.stores, behind.request())
    postgres_pair.catch_up()
    postgres_pair.separate()
    holds, copy = Ledger.has_committed, transaction.copy_batches

    def copy_and_lose_reply(*arguments: Any) -> None:
        copy(*arguments)
        postgres_pair.proxy.lose_reply_to(COMMIT)

    def fence_and_resolve(self: Ledger, flush_id: Any) -> bool:
        postgres_pair.fence()
        return holds(self, flush_id)

    with monkeypatch.context() as patch:
        patch.setattr(transaction, "copy_batches", copy_and_lose_reply)
        patch.setattr(Ledger, "has_committed", fence_and_resolve)
        with pytest.raises(PostgresRefusesWrites, match=r"read-only, so whether flush .* is not known"):
            bulk_upsert(behind.stores, snapshot, aggregate(snapshot.readings))
    assert behind.seqs() == [1]
    postgres_pair.promote()
    postgres_pair.lead_to(postgres_pair.standby)
    assert behind.seqs() == []
    behind.flush()
    behind.assert_all_persisted()


def test_several_hosts_that_all_refuse_writes(postgres_pair: PostgresPair) -> None:
    """The error names the cause; with the primary among the hosts, it is found behind the standby."""
    host = f"127.0.0.1:{postgres_pair.standby.port}"
    with_standbys = postgres_pair.standby.url.replace(host, f"{host},{host}")
    with pytest.raises(PostgresRefusesWrites, match="session is read-only"), Ledger(with_standbys).connect():
        pass
    with Ledger(
        postgres_pair.standby.url.replace(host, f"{host},127.0.0.1:{postgres_pair.primary.port}")
    ).connect() as connection:
        assert connection.info.port == postgres_pair.primary.port
    with pytest.raises(PostgresRefusesWrites, match="read-only transaction"):
        migrate(postgres_pair.standby.url, with_dagster=True)


def test_health_follows_a_failover(postgres_pair: PostgresPair, redis_url: str) -> None:
    """It never reports "takes writes" for a server that refuses them, and recovers by itself."""
    probes = HealthProbes(Settings(redis_url=redis_url, database_url=postgres_pair.url))
    assert "accepts writes" in by_name(probes.check_postgres())["postgres"].message
    postgres_pair.lead_to(postgres_pair.standby)
    result = by_name(probes.check_postgres())["postgres"]
    assert (result.status, result.message) == ("unhealthy", "PostgreSQL refuses writes: it is in recovery (a standby)")
    with pytest.raises(PostgresRefusesWrites):
        probes.check_settling()
    postgres_pair.lead_to(postgres_pair.primary)
    assert "accepts writes" in by_name(probes.check_postgres())["postgres"].message
    postgres_pair.fence()
    result = by_name(probes.check_postgres())["postgres"]
    assert (result.status, result.message) == ("unhealthy", "PostgreSQL refuses writes: its transactions are read-only")
    probes.close()


@pytest.mark.parametrize("setting", ["idle_in_transaction_session_timeout", "transaction_timeout"])
def test_a_session_that_the_server_ended(database_url: str, setting: str) -> None:
    """The transaction was idle for too long: another connection works, so the step may be retried."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_settings WHERE name = %s", [setting]).fetchone() is None:
            pytest.skip(f"this PostgreSQL has no {setting}")
        connection.execute(f"SET {setting} = '100ms'")
        with pytest.raises(PostgresUnavailable, match="timeout"), postgres_errors(database_url):
            wait_in_transaction(connection, database_url)


def wait_in_transaction(connection: psycopg.Connection, database_url: str) -> None:
    """Wait in a transaction until the server has ended the session, then use it."""
    with psycopg.connect(database_url, autocommit=True) as other, connection.transaction():
        connection.execute("SELECT 1")
        pid, ours = connection.info.backend_pid, "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: other.execute(ours, [pid]).fetchone() is None, 10, "the session has ended")
        connection.execute("SELECT 1")
