"""Replies of PostgreSQL that are lost or late: every wait ends, every retry is harmless."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psycopg
import pytest

from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.flush import ledger, ledger_reads, transaction
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.stores.postgres import BoundedConnection
from viewer_pipeline.target.add_or_park import FetchTotals
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.totals_statements import TotalsStatement
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

TIMEOUT_SECONDS = 1.0


def first_line(module: ModuleType, query: str) -> bytes:
    """Return the first line of a named query: the comment with its purpose, which is sent with it."""
    return named_queries(module.__name__)[query].partition("\n")[0].encode()


# The bytes that identify each statement of a run, in order.
LAST_FLUSH = first_line(ledger_reads, "last_flush")
CLAIM = first_line(transaction, "insert_flush")
COPIED = b"COPY viewer.flush_batch"
COMMIT = b"COMMIT\x00"  # the statement, not a level of isolation
STATEMENTS = [LAST_FLUSH, b"BEGIN", CLAIM, COPIED, COMMIT]
NAMES = ["last flush", "begin", "claim", "copy", "commit"]


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the timeout of PostgreSQL."""
    monkeypatch.setattr(BoundedConnection, "reply_seconds", TIMEOUT_SECONDS)


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """Put a proxy between the ledger and PostgreSQL."""
    with Proxy.of(database_url, 5432) as proxy:
        yield proxy


def flush_through(world: World, proxy: Proxy) -> RunReport | PostgresUnavailable:
    """Run a flush whose ledger is behind the proxy; return its result or error. One without a time limit would hang."""
    url = proxy.url(world.stores.ledger.url) + "?connect_timeout=2"
    behind = World(Stores(world.stores.redis, Ledger(url)))
    try:
        return behind.flush()
    except PostgresUnavailable as error:
        return error


@pytest.fixture
def counted(totals_statement: TotalsStatement) -> bytes:
    """The bytes that identify the statement that adds to the totals: each one in turn."""
    return first_line(transaction, totals_statement.query)


def test_the_reply_to_the_totals_is_lost(world: World, proxy: Proxy, counted: bytes) -> None:
    """PostgreSQL rolls back what it has added to the totals."""
    test_the_reply_is_lost(world, proxy, counted)


@pytest.mark.parametrize("needle", STATEMENTS, ids=NAMES)
def test_the_reply_is_lost(world: World, proxy: Proxy, needle: bytes) -> None:
    """PostgreSQL has executed it, the connection breaks: counted if it was the COMMIT, else not."""
    world.send_many(3)
    proxy.lose_reply_to(needle)
    outcome = flush_through(world, proxy)
    assert proxy.lost_replies == 1
    assert isinstance(outcome, RunReport if needle == COMMIT else PostgresUnavailable)
    if needle == COMMIT:
        assert world.seqs() == [1]
        assert world.counters() == {}
    else:
        assert world.seqs() == []
        assert world.counters() == dict(world.sent)
    assert world.flush().notes.settled_before == 0
    world.assert_all_persisted()


@pytest.mark.parametrize("needle", [LAST_FLUSH, COPIED, COMMIT], ids=["last flush", "copy", "commit"])
def test_the_reply_never_arrives(world: World, proxy: Proxy, needle: bytes) -> None:
    """PostgreSQL has executed it, the connection stays silent: the client times out, and resolves a COMMIT."""
    world.send_many(3)
    proxy.fall_silent_at(needle, deliver=True)
    outcome = flush_through(world, proxy)
    assert proxy.silenced == 1
    assert isinstance(outcome, RunReport if needle == COMMIT else PostgresUnavailable)
    if needle == COMMIT:  # found by looking it up, and settled
        assert world.seqs() == [1]
        assert world.counters() == {}
    else:
        assert "no answer within 1 s" in str(outcome)
        assert world.seqs() == []
    proxy.heal()
    wait_until(lambda: not backends(world), 10, "PostgreSQL to roll back")
    world.flush()
    world.assert_all_persisted()


def test_the_reply_to_the_first_of_two_commits_is_lost(world: World, proxy: Proxy) -> None:
    """The first flush is found and settled; the run has no connection for the rest, which the next run does."""
    world.send_many(7)
    proxy.lose_reply_to(COMMIT)
    assert isinstance(flush_through(world, proxy), PostgresUnavailable)
    assert world.seqs() == [1]
    assert world.flush().notes.settled_before in (0, 2)
    world.assert_all_persisted()


def test_an_error_comes_with_the_reply_to_a_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooler that loses its server sends an error as its last word. What was committed is found all the same (R8)."""
    commit = transaction.commit_to_totals

    def commit_and_fail(*arguments: Any) -> None:
        commit(*arguments)
        raise psycopg.InternalError("received 2 results from command 'COMMIT'")

    monkeypatch.setattr(transaction, "commit_to_totals", commit_and_fail)
    world.send_many(2)
    world.flush()
    assert world.seqs() == [1]
    world.assert_all_persisted()


def test_the_request_for_the_totals_arrives_late(world: World, proxy: Proxy, counted: bytes) -> None:
    """It arrives after the run has failed, and PostgreSQL executes it and rolls it back."""
    test_the_request_arrives_late(world, proxy, counted)


@pytest.mark.parametrize("needle", [CLAIM, COMMIT], ids=["claim", "commit"])
def test_the_request_arrives_late(world: World, proxy: Proxy, needle: bytes) -> None:
    """It arrives after the run has failed, and PostgreSQL executes it: a COMMIT counts the views once."""
    world.send_many(3)
    proxy.fall_silent_at(needle, deliver=False)
    outcome = flush_through(world, proxy)
    assert isinstance(outcome, PostgresUnavailable)
    assert world.seqs() == []
    proxy.heal()
    wait_until(lambda: not backends(world), 10, "the late request to be executed")
    assert world.seqs() == ([1] if needle == COMMIT else [])
    done = world.flush(flush_max_counters=4)
    assert done.notes.settled_before == (2 if needle == COMMIT else 0)
    world.assert_all_persisted()


def test_everything_falls_silent(world: World, proxy: Proxy) -> None:
    """The lookup of the COMMIT reaches no PostgreSQL either: the run fails, and the next one finds the flush."""
    world.send_many(7)
    transact = transaction.commit_flush

    def commit_and_fall_silent(*arguments: Any) -> Any:
        transact(*arguments)
        proxy.blackhole()
        raise psycopg.OperationalError("the reply was lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "commit_flush", commit_and_fall_silent)
        outcome = flush_through(world, proxy)
    assert "timeout expired" in str(outcome)
    proxy.heal()
    assert world.seqs() == [1]
    assert world.flush().notes.settled_before == 2
    world.assert_all_persisted()


def test_a_lost_reply_at_every_flush_of_a_run(world: World, proxy: Proxy) -> None:
    """Ten commits, ten lookups, no view twice."""
    world.send_many(40)
    proxy.lose_reply_to(COMMIT, times=1)
    lookups = ledger.Ledger.has_committed
    with pytest.MonkeyPatch.context() as patch:

        def resolve_and_lose_reply(self: Ledger, flush_id: Any) -> bool:
            outcome = lookups(self, flush_id)
            proxy.lose_reply_to(COMMIT)
            return outcome

        patch.setattr(Ledger, "has_committed", resolve_and_lose_reply)
        for _ in range(10):
            flush_through(world, proxy)
    world.flush()
    assert proxy.lost_replies >= 10
    world.assert_all_persisted()


@pytest.mark.parametrize("in_commit", [False, True], ids=["in COPY", "in COMMIT"])
def test_a_backend_that_is_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch, totals_statement: TotalsStatement, in_commit: bool
) -> None:
    """The kernel acknowledges for it, so only the client's timeout ends the wait; then it changes nothing twice."""
    world.send_many(3)
    name = totals_statement.function if in_commit else "copy_batches"
    step = getattr(transaction, name)
    stopped = list[int]()

    def stop_and_continue(connection: psycopg.Connection, *arguments: Any) -> Any:
        after = step(connection, *arguments) if in_commit else None  # the COMMIT comes next
        stopped.append(connection.info.backend_pid)
        os.kill(stopped[0], signal.SIGSTOP)
        return after or step(connection, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(transaction, name, stop_and_continue)
        with pytest.raises(PostgresUnavailable, match="no answer within"):
            world.flush()
    os.kill(stopped[0], signal.SIGCONT)
    wait_until(lambda: not backends(world), 10, "the backend to see that its client is gone")
    assert world.seqs() == ([1] if in_commit else [])
    world.flush()
    world.assert_all_persisted()


def test_a_stopped_backend_delays_the_next_run_only(
    world: World, monkeypatch: pytest.MonkeyPatch, totals_statement: TotalsStatement
) -> None:
    """Its row of the ledger is locked: the next run times out as well, and the one after it counts once."""
    world.send_many(3)
    with stopped_before_commit(world, monkeypatch, totals_statement.function):
        with pytest.raises(PostgresUnavailable, match="no answer within"):
            world.flush()
        assert world.counters() == dict(world.sent)
    wait_until(lambda: not backends(world), 10, "the backends to see that their clients are gone")
    world.send("late", 1)
    world.flush()
    world.assert_all_persisted()


@contextmanager
def stopped_before_commit(world: World, monkeypatch: pytest.MonkeyPatch, last_step: str) -> Iterator[None]:
    """Run a flush whose backend is stopped before it reads the COMMIT, and continue it in the end."""
    snapshot = drain(world.stores, world.request())
    original, stopped = getattr(transaction, last_step), list[int]()

    def stop_after(connection: psycopg.Connection, *arguments: Any) -> FetchTotals:
        totals: FetchTotals = original(connection, *arguments)
        stopped.append(connection.info.backend_pid)
        os.kill(stopped[0], signal.SIGSTOP)
        return totals

    with monkeypatch.context() as patch:
        patch.setattr(transaction, last_step, stop_after)
        with pytest.raises(PostgresUnavailable):
            bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    try:
        yield
    finally:
        os.kill(stopped[0], signal.SIGCONT)


def test_a_slow_reply_is_awaited(world: World) -> None:
    """A reply within the timeout is no fault; and the timeout is for each statement, not for all together."""
    with world.stores.ledger.connect() as connection:
        for _ in range(3):
            connection.execute(f"SELECT pg_sleep({TIMEOUT_SECONDS / 2})")
        with pytest.raises(psycopg.OperationalError, match="no answer within 1 s"):
            connection.execute("SELECT pg_sleep(30)")
        assert connection.closed


def test_a_lock_that_is_never_released(world: World) -> None:
    """Another session locks the totals: the run times out, PostgreSQL rolls back, the next run counts once."""
    world.send_many(3)
    with psycopg.connect(world.stores.ledger.url) as other:
        other.execute("LOCK TABLE viewer.vod_view_counts IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(PostgresUnavailable, match="no answer within"):
            world.flush()
    wait_until(lambda: not backends(world), 10, "PostgreSQL to roll back")
    assert world.seqs() == []
    world.flush()
    world.assert_all_persisted()


def backends(world: World) -> list[Any]:
    """Return the connections of ours that PostgreSQL serves."""
    return world.rows(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'viewer-pipeline'"
    )
