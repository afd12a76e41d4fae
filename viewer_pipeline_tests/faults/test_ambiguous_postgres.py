"""Answers of PostgreSQL that are lost, late or never come: every wait ends, every retry is harmless."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.flush import ledger, transaction
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_rows import Totals
from viewer_pipeline.flush.report import RunReport
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.postgres import BoundedConnection
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

ANSWER_SECONDS = 0.4
ENOUGH_SECONDS = 10.0  # for a run that gives up; without a bound it would take for ever

# What a statement is recognised by on its way, from the first to the last of a run.
LOOKED = b"The newest flush of the ledger"
CLAIM = b"Claim the next seq"
COPIED = b"COPY viewer.flush_batch"
COUNTED = b"Add the batches of a flush"
COMMIT = b"COMMIT\x00"  # the statement, not a level of isolation
STATEMENTS = [LOOKED, b"BEGIN", CLAIM, COPIED, COUNTED, COMMIT]
NAMES = ["look", "begin", "claim", "copy", "upsert", "commit"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon."""
    monkeypatch.setattr(BoundedConnection, "reply_seconds", ANSWER_SECONDS)


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """Stand between the ledger and PostgreSQL."""
    with Proxy.of(database_url, 5432) as proxy:
        yield proxy


def flush_through(world: World, proxy: Proxy) -> RunReport | PostgresUnavailable:
    """Run a flush whose ledger is behind the proxy; return what came of it, in finite time."""
    url = proxy.url(world.stores.ledger.url) + "?connect_timeout=2"
    behind = World(Stores(world.stores.redis, Ledger(url)))
    started = time.monotonic()
    try:
        return behind.flush()
    except PostgresUnavailable as error:
        return error
    finally:
        assert time.monotonic() - started < ENOUGH_SECONDS


@pytest.mark.parametrize("needle", STATEMENTS, ids=NAMES)
def test_the_answer_is_lost(world: World, proxy: Proxy, needle: bytes) -> None:
    """PostgreSQL has executed it, the connection breaks: counted if it was the COMMIT, else not."""
    world.send_many(3)
    proxy.lose_reply_to(needle)
    found = flush_through(world, proxy)
    assert proxy.lost_replies == 1
    assert isinstance(found, RunReport if needle == COMMIT else PostgresUnavailable)
    if needle == COMMIT:
        assert world.seqs() == [1]
        assert world.counters() == {}
    else:
        assert world.seqs() == []
        assert world.counters() == dict(world.sent)
    assert world.flush().notes.settled_before == 0
    world.assert_all_persisted()


@pytest.mark.parametrize("needle", [LOOKED, COPIED, COMMIT], ids=["look", "copy", "commit"])
def test_the_answer_never_comes(world: World, proxy: Proxy, needle: bytes) -> None:
    """PostgreSQL has executed it, the connection stays and is silent: the client gives up, and looks a COMMIT up."""
    world.send_many(3)
    proxy.fall_silent_at(needle, deliver=True)
    found = flush_through(world, proxy)
    assert proxy.silenced == 1
    assert isinstance(found, RunReport if needle == COMMIT else PostgresUnavailable)
    if needle == COMMIT:  # found by looking it up, and settled
        assert world.seqs() == [1]
        assert world.counters() == {}
    else:
        assert "no answer within 0.4 s" in str(found)
        assert world.seqs() == []
    proxy.heal()
    wait_until(lambda: not backends(world), 10, "PostgreSQL to roll back")
    world.flush()
    world.assert_all_persisted()


def test_the_answer_to_the_first_of_two_commits_is_lost(world: World, proxy: Proxy) -> None:
    """The first flush is found and settled; the rest of the run has no connection any more, and is for the next one."""
    world.send_many(7)
    proxy.lose_reply_to(COMMIT)
    assert isinstance(flush_through(world, proxy), PostgresUnavailable)
    assert world.seqs() == [1]
    assert world.flush().notes.settled_before in (0, 2)
    world.assert_all_persisted()


@pytest.mark.parametrize("needle", [CLAIM, COUNTED, COMMIT], ids=["claim", "upsert", "commit"])
def test_the_request_comes_late(world: World, proxy: Proxy, needle: bytes) -> None:
    """It arrives when the run has long failed, and PostgreSQL executes it then: a COMMIT counts the views once."""
    world.send_many(3)
    proxy.fall_silent_at(needle, deliver=False)
    found = flush_through(world, proxy)
    assert isinstance(found, PostgresUnavailable)
    assert world.seqs() == []
    proxy.heal()
    wait_until(lambda: not backends(world), 10, "the late request to be executed")
    assert world.seqs() == ([1] if needle == COMMIT else [])
    done = world.flush(flush_max_counters=4)
    assert done.notes.settled_before == (2 if needle == COMMIT else 0)
    world.assert_all_persisted()


def test_everything_falls_silent(world: World, proxy: Proxy) -> None:
    """The lookup of the COMMIT finds no PostgreSQL either: the run fails, and the next one finds the flush."""
    world.send_many(7)
    transact = transaction.transact

    def commit_and_fall_silent(*arguments: Any) -> Any:
        transact(*arguments)
        proxy.blackhole()
        raise psycopg.OperationalError("the answer was lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "transact", commit_and_fall_silent)
        found = flush_through(world, proxy)
    assert "timeout expired" in str(found)
    proxy.heal()
    assert world.seqs() == [1]
    assert world.flush().notes.settled_before == 2
    world.assert_all_persisted()


def test_a_lost_answer_at_every_flush_of_a_run(world: World, proxy: Proxy) -> None:
    """Ten commits, ten lookups, no view twice."""
    world.send_many(40)
    proxy.lose_reply_to(COMMIT, times=1)
    lookups = ledger.Ledger.holds
    with pytest.MonkeyPatch.context() as patch:

        def look_up_and_lose_again(self: Ledger, flush_id: Any) -> bool:
            found = lookups(self, flush_id)
            proxy.lose_reply_to(COMMIT)
            return found

        patch.setattr(Ledger, "holds", look_up_and_lose_again)
        for _ in range(10):
            flush_through(world, proxy)
    world.flush()
    assert proxy.lost_replies >= 10
    world.assert_all_persisted()


@pytest.mark.parametrize("name", ["copy_batches", "add_to_totals"], ids=["in COPY", "in COMMIT"])
def test_a_backend_that_is_stopped(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The kernel acknowledges for it, so only the client's own clock ends the wait; woken, it changes nothing twice."""
    world.send_many(3)
    step = getattr(transaction, name)
    stopped = list[int]()

    def stop_and_go_on(connection: psycopg.Connection, *arguments: Any) -> Any:
        after = step(connection, *arguments) if name == "add_to_totals" else None  # the COMMIT comes next
        stopped.append(connection.info.backend_pid)
        os.kill(stopped[0], signal.SIGSTOP)
        return after or step(connection, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(transaction, name, stop_and_go_on)
        with pytest.raises(PostgresUnavailable, match="no answer within"):
            world.flush()
    os.kill(stopped[0], signal.SIGCONT)
    wait_until(lambda: not backends(world), 10, "the backend to see that its client is gone")
    assert world.seqs() == ([1] if name == "add_to_totals" else [])
    world.flush()
    world.assert_all_persisted()


def test_a_stopped_backend_holds_up_the_next_run_and_no_longer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row of the ledger is locked: the next run gives up as well, and the one after it counts once."""
    world.send_many(3)
    with stopped_before_commit(world, monkeypatch):
        with pytest.raises(PostgresUnavailable, match="no answer within"):
            world.flush()
        assert world.counters() == dict(world.sent)
    wait_until(lambda: not backends(world), 10, "the backends to see that their clients are gone")
    world.send("late", 1)
    world.flush()
    world.assert_all_persisted()


@contextmanager
def stopped_before_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a flush whose backend is stopped before it reads the COMMIT, and wake it in the end."""
    snapshot = drain(world.stores, world.request())
    original, stopped = transaction.add_to_totals, list[int]()

    def stop_after(connection: psycopg.Connection, *arguments: Any) -> Totals:
        totals = original(connection, *arguments)
        stopped.append(connection.info.backend_pid)
        os.kill(stopped[0], signal.SIGSTOP)
        return totals

    with monkeypatch.context() as patch:
        patch.setattr(transaction, "add_to_totals", stop_after)
        with pytest.raises(PostgresUnavailable):
            bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    try:
        yield
    finally:
        os.kill(stopped[0], signal.SIGCONT)


def test_a_slow_answer_is_awaited(world: World) -> None:
    """What takes long, but not too long, is no fault; and the bound is for each statement, not for all together."""
    with world.stores.ledger.connect() as connection:
        for _ in range(3):
            connection.execute(f"SELECT pg_sleep({ANSWER_SECONDS / 2})")
        with pytest.raises(psycopg.OperationalError, match=r"no answer within 0\.4 s"):
            connection.execute("SELECT pg_sleep(30)")
        assert connection.closed


def test_a_lock_that_is_never_given_back(world: World) -> None:
    """Somebody holds the totals: the run gives up, PostgreSQL rolls back, the next one counts once."""
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
