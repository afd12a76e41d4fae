"""Incidents stay open until they are acknowledged."""

from __future__ import annotations

import signal
from typing import Any

import psycopg
import pytest

from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.flush import transaction
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.incidents import Kind, acknowledge, open_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.stores.cancellation_between_statements import cancel_between_statements
from viewer_pipeline_tests.support.world import PREFIX, World


def opened(world: World) -> dict[Kind, tuple[int, int]]:
    """Return the open incidents: kind -> (occasions, views)."""
    with world.stores.ledger.connect() as connection:
        return {incident.kind: (incident.occasions, incident.views) for incident in open_incidents(connection)}


def close(world: World, *kinds: Kind) -> int:
    """Acknowledge."""
    with world.stores.ledger.connect() as connection:
        return acknowledge(connection, list(kinds))


def test_normal_flushes_open_no_incident(world: World) -> None:
    """A first flush, a second one, one with nothing to do: no incident."""
    for _ in range(3):
        world.send("a", 5)
        world.flush()
    world.flush()
    assert opened(world) == {}


def test_redis_was_emptied(world: World) -> None:
    """One occasion per reset, and a new incident after it was acknowledged."""
    world.send("a", 5)
    world.flush()
    for occasions in (1, 2):
        world.client.flushall()
        world.flush()
        world.flush()
        assert opened(world) == {"redis_emptied": (occasions, 0)}
    assert close(world, "drift", "postgres_rolled_back") == 0
    assert close(world, "redis_emptied") == 1
    assert opened(world) == {}
    world.client.flushall()
    world.flush()
    assert opened(world) == {"redis_emptied": (1, 0)}


def test_postgres_was_rolled_back(world: World) -> None:
    """It stays open when the next flush has made marker and ledger level again."""
    for _ in range(2):
        world.send("a", 5)
        world.flush()
    world.execute("DELETE FROM viewer.flush WHERE seq = 2")
    world.execute("DELETE FROM viewer.flush_batch WHERE seq = 2")
    world.send("a", 5)
    world.flush()
    world.flush()
    assert opened(world) == {"postgres_rolled_back": (1, 0)}


@pytest.mark.parametrize("retried", [False, True])
def test_drift(world: World, *, retried: bool) -> None:
    """With the views that it is about, once, also where the step is repeated."""
    world.send("a", 5)
    world.send("b", 5)
    snapshot = drain(world.stores, world.request())
    world.client.decrby(PREFIX + "a", 3)
    for _ in range(2 if retried else 1):
        bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    assert opened(world) == {"drift": (1, 3)}


def test_drift_of_a_failed_attempt_is_recorded_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second transaction fails after the first flush was settled; the repeated step adds no occasion."""
    snapshot = drain_and_lower_counter(world)
    commit, fails = transaction.commit_flush, iter([False, True])

    def fail_at_second(*arguments: Any) -> Any:
        if next(fails, False):
            raise psycopg.errors.DeadlockDetected("deadlock detected")
        return commit(*arguments)

    monkeypatch.setattr(transaction, "commit_flush", fail_at_second)
    with pytest.raises(PostgresUnavailable, match="deadlock detected"):
        bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    assert opened(world) == {"drift": (1, 3)}
    report = bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    assert ([row.seq for row in report.recovered], report.views) == ([1], 30)
    assert opened(world) == {"drift": (1, 3)}


def test_drift_is_recorded_before_a_cancellation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes when the last flush is settled, before its incidents are recorded."""
    snapshot = drain_and_lower_counter(world)
    record = Settler._record_incidents

    def receive_signal_and_record(settler: Settler, *, failed: bool) -> None:
        signal.raise_signal(signal.SIGINT)
        record(settler, failed=failed)

    monkeypatch.setattr(Settler, "_record_incidents", receive_signal_and_record)
    with pytest.raises(KeyboardInterrupt), cancel_between_statements():
        bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    assert opened(world) == {"drift": (1, 3)}


def test_drift_of_a_failed_attempt_is_recorded_and_reported_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL goes away after the first flush was settled, so that its drift cannot be recorded then."""
    snapshot = drain_and_lower_counter(world)
    commit, fails = transaction.commit_flush, iter([False, True])

    def fail_at_second(connection: psycopg.Connection, *arguments: Any) -> Any:
        if next(fails, False):
            monkeypatch.setattr(Ledger, "connect", unreachable)
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return commit(connection, *arguments)

    with monkeypatch.context() as outage:
        outage.setattr(transaction, "commit_flush", fail_at_second)
        with pytest.raises(PostgresUnavailable):
            bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    monkeypatch.undo()
    assert opened(world) == {}
    report = bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    assert opened(world) == {"drift": (1, 3)}
    assert (report.views, report.notes.drift, report.notes.drifted) == (30, 3, ("vod0000",))
    assert {check.name: check.passed for check in verify(world.stores, report)}["no_drift"] is False


def test_an_incident_that_cannot_be_recorded_hides_no_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped stays stopped: it is not taken for one that may be repeated."""
    snapshot = drain_and_lower_counter(world)
    commit, stops = transaction.commit_flush, iter([False, True])

    def stop_at_second(*arguments: Any) -> Any:
        if next(stops, False):
            monkeypatch.setattr(Ledger, "connect", unreachable)
            raise KeyboardInterrupt
        return commit(*arguments)

    monkeypatch.setattr(transaction, "commit_flush", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))


def drain_and_lower_counter(world: World) -> Snapshot:
    """Drain six counters, then lower the first by 3 views."""
    world.send_many(6, views=5)
    snapshot = drain(world.stores, world.request())
    world.client.decrby(PREFIX + "vod0000", 3)
    return snapshot


def unreachable(*_: Any, **__: Any) -> Any:
    """Fail as a connection does while PostgreSQL is down."""
    raise PostgresUnavailable("no answer")
