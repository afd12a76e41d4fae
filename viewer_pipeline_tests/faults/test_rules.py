"""The rules of the protocol, each with a test that fails without it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from viewer_pipeline.errors import (
    MarkerMoved,
    MarkerUnreadable,
    PostgresFailed,
    PostgresUnavailable,
    RedisFailed,
    RedisRefusesWrites,
)
from viewer_pipeline.flush import commit, ledger, transaction
from viewer_pipeline.flush import settle as settler
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger_reads import read_batches_after
from viewer_pipeline.flush.ledger_row_types import Batch, Flush, FlushRow
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.ingest.subscriber_scripts import SubscriberScripts
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.claims import claim
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_r1_ledger_and_totals_commit_together(world: World) -> None:
    """Totals that cannot be written roll the ledger's rows back with them."""
    world.send_many(3)
    world.execute("ALTER TABLE viewer.vod_view_counts ADD CONSTRAINT none CHECK (view_count < 0)")
    with pytest.raises(PostgresFailed, match="violates check constraint"):
        world.flush()
    assert (world.seqs(), world.rows("SELECT * FROM viewer.flush_batch")) == ([], [])
    world.execute("ALTER TABLE viewer.vod_view_counts DROP CONSTRAINT none")
    world.flush()
    world.assert_all_persisted()


def test_r3_a_snapshot_is_discarded_if_another_run_committed_first(world: World) -> None:
    """Two runs read the same counters; the second to commit drains again and finds none left."""
    world.send_many(3)
    first, second = world.drain(), world.drain()
    bulk_upsert(world.stores, *first)
    world.send("vod0000", 1)
    done = bulk_upsert(world.stores, *second)
    assert (done.views, done.notes.superseded, done.left_over) == (1, 1, False)
    world.assert_all_persisted()


def test_r3_between_the_flushes_of_one_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run that commits between two flushes of this one supersedes the rest of its snapshot."""
    world.send_many(10)
    commit, interlopers = ledger.Ledger.commit, iter([None, world.stores, None])

    def interrupted(self: ledger.Ledger, connection: psycopg.Connection, planned: Flush) -> Any:
        if next(interlopers, None) is not None:
            world.flush()
        return commit(self, connection, planned)

    monkeypatch.setattr(ledger.Ledger, "commit", interrupted)
    done = world.flush()
    assert done.notes.superseded == 1
    world.assert_all_persisted()


def test_r3_a_snapshot_is_discarded_also_after_a_gap(world: World) -> None:
    """A flush numbered far above `base` (the marker was ahead) supersedes like the next number."""
    world.send("a", 5)
    first = world.drain()
    world.client.hset("viewer:settled", mapping={"flush": 15, "batch": 1, "batches": 1})
    bulk_upsert(world.stores, *world.drain())
    done = bulk_upsert(world.stores, *first)
    assert (world.seqs(), done.views, done.notes.superseded) == ([16], 0, 1)
    world.assert_all_persisted()


def test_at_most_two_flushes_are_unsettled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While flush k is settled, flush k + 1 may be committed, and no other."""
    world.send_many(20)
    original, committed = settler.settle_batches, list[int]()

    def settle_slowly(redis: Any, marker: Marker, batches: list[Batch]) -> Any:
        seen = max(len(world.seqs()) for _ in range(50))  # a while in which too many would be committed
        committed.append(seen - batches[0].seq)
        return original(redis, marker, batches)

    monkeypatch.setattr(settler, "settle_batches", settle_slowly)
    world.flush()
    assert max(committed) == 1
    assert len(committed) == 5
    world.assert_all_persisted()


def test_r3_two_concurrent_transactions(world: World) -> None:
    """While one transaction holds the next seq, the other waits for it, and is superseded when it commits."""
    world.send_many(3)
    first, second = world.drain(), world.drain()
    outcome: list[Any] = []
    with psycopg.connect(world.stores.ledger.url) as connection:
        planned = first[0].plan_flush(first[0].base, None, first[1].frame, "sweep")
        assert transaction.claim_flush_number(connection, planned)
        thread = threading.Thread(target=lambda: outcome.append(bulk_upsert(world.stores, *second)))
        thread.start()
        while not world.rows(WAITING):
            assert thread.is_alive()
        transaction.copy_batches(connection, planned.batches)
        transaction.add_to_totals(connection, planned)
        connection.commit()
    thread.join(ENOUGH)
    assert outcome[0].notes.superseded == 1
    assert outcome[0].notes.settled_before == 2
    world.assert_all_persisted()


def test_r3_two_concurrent_transactions_with_other_bases(world: World) -> None:
    """The marker was ahead of the ledger when one began, and fell back before the other: their numbers differ."""
    world.send_many(3)
    first = world.drain()
    world.client.hset("viewer:settled", mapping={"flush": 15, "batch": 1, "batches": 1})
    second = world.drain()
    low, high = (
        snapshot.plan_flush(snapshot.base, snapshot.after, aggregated.frame, "sweep")
        for snapshot, aggregated in (first, second)
    )
    assert (low.seq, high.seq) == (1, 16)
    claimed = list[bool]()

    def claim_low() -> None:
        with world.stores.ledger.connect() as connection, connection.transaction():
            claimed.append(transaction.claim_flush_number(connection, low))

    with psycopg.connect(world.stores.ledger.url) as connection:
        assert transaction.claim_flush_number(connection, high)
        thread = threading.Thread(target=claim_low)
        thread.start()
        wait_until(lambda: claimed or world.rows(WAITING), 30, "the other claim waits")
        connection.commit()
    thread.join(ENOUGH)
    assert (claimed, world.seqs()) == ([False], [16])


@pytest.mark.parametrize("flushed_before", [False, True])
def test_r6_a_flush_below_the_base_was_committed_meanwhile(world: World, flushed_before: bool) -> None:
    """By a run that read an older marker, after Redis had fallen back; also if the ledger was empty before."""
    if flushed_before:
        world.send("other")
        world.flush()
    world.send_many(3)
    world.drain()
    older: Any = world.client.hgetall("viewer:settled")
    world.client.hset("viewer:settled", mapping={"flush": 15, "batch": 1, "batches": 1})
    snapshot, aggregated = world.drain()
    assert snapshot.base == 15
    world.client.delete("viewer:settled")
    world.client.hset("viewer:settled", mapping=older)
    world.flush()
    done = bulk_upsert(world.stores, snapshot, aggregated)
    assert (done.views, done.notes.superseded) == (0, 1)
    world.assert_all_persisted()


@pytest.mark.parametrize("flushed_before", [False, True])
def test_r6_a_ledger_that_was_emptied_meanwhile(world: World, flushed_before: bool) -> None:
    """What the run has read may have been settled by a flush that is gone. A ledger that was empty may stay so."""
    if flushed_before:
        world.send("a")
        world.flush()
    world.send("a", 2)
    with world.stores.ledger.connect() as connection:
        snapshot, aggregated = world.drain()
        world.execute("DELETE FROM viewer.flush_batch")
        world.execute("DELETE FROM viewer.flush")
        planned = snapshot.plan_flush(snapshot.base, snapshot.after, aggregated.frame, "sweep")
        with connection.transaction(force_rollback=True):
            assert transaction.claim_flush_number(connection, planned) is not flushed_before


def test_r3_a_run_stops_after_several_superseded_attempts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is superseded every time leaves the views to the next one."""
    world.send_many(3)
    monkeypatch.setattr(ledger.Ledger, "commit", lambda *_: None)
    done = world.flush()
    assert (done.left_over, done.notes.superseded) == (True, commit.SUPERSEDED_TRIES)
    monkeypatch.undo()
    world.flush()
    world.assert_all_persisted()


@pytest.mark.parametrize("arrive", ["before", "between"])
def test_r4_a_settling_script_that_is_sent_twice_subtracts_once(world: World, arrive: str) -> None:
    """As redis-py does after a timeout, with one or several batches; as many new views arrive before, or in between."""
    world.send_many(4)
    world.flush_unsettled()
    with world.stores.ledger.connect() as connection:
        batches, _ = read_batches_after(connection, 0, 0, 1, 100)
    for attempt in range(3):
        if attempt == (0 if arrive == "before" else 1):
            world.send_many(4)
        settled = world.stores.redis.settle(world.at(0, 0, 0), batches)
        assert (settled.marker, settled.refused) == (world.at(1, 2, 2), False)
    assert world.counters() == {f"vod{n:04d}": 3 for n in range(4)}
    world.assert_conserved()


def test_r5_a_batch_whose_predecessor_is_not_settled_is_refused(world: World) -> None:
    """Within a flush, and across flushes: nothing changes, the marker stays."""
    world.send_many(8)
    world.flush_unsettled()
    with world.stores.ledger.connect() as connection:
        (first, second, third, *_), _ = read_batches_after(connection, 0, 0, 9, 100)
    for marker, skipping in ((world.at(1, 1, 2), second), (world.at(1, 2, 2), third)):
        settled = world.stores.redis.settle(marker, [skipping])
        assert (settled.refused, settled.marker) == (True, world.at(0, 0, 0))
    assert world.counters() == dict(world.sent)
    assert not world.stores.redis.settle(world.at(0, 0, 0), [first, second, third]).refused
    assert world.marker() == Marker(2, 1, 2)


def test_r5_a_script_after_a_gap_does_not_skip_a_flush(world: World) -> None:
    """Redis fell back to before flush 1 was settled; the first batch of flush 2 must not move the marker past it."""
    world.send_many(8)
    world.flush_unsettled()
    with world.stores.ledger.connect() as connection:
        flush_two, _ = read_batches_after(connection, 1, 2, 2, 100)
    settled = world.stores.redis.settle(world.at(1, 2, 2), flush_two)
    assert settled.refused
    world.flush()
    world.assert_all_persisted()


def test_r6_a_postgres_that_was_rolled_back(world: World) -> None:
    """Its next flush is numbered above the marker too, so that views after the restore are settled."""
    world.send("a", 1)
    world.flush()
    world.send("a", 2)
    world.flush()
    world.send("a", 4)
    world.flush()
    for table in ("flush", "flush_batch"):
        world.execute(f"DELETE FROM viewer.{table} WHERE seq > 1")
    world.execute("UPDATE viewer.vod_view_counts SET view_count = 1, last_flush = 1")
    world.send("a", 8)
    done = world.flush()
    assert done.notes.postgres_rolled_back
    assert world.seqs() == [1, 4]
    assert world.totals() == {"a": 9}  # 1 from the backup, 8 new; 6 were lost with PostgreSQL's own data
    assert world.counters() == {}
    world.send("a", 1)
    done = world.flush()
    assert not done.notes.postgres_rolled_back
    assert world.totals() == {"a": 10}


def test_a_marker_behind_the_ledger_is_settled_again(world: World) -> None:
    """Redis fell back to an older snapshot, with its counters and its marker."""
    world.send_many(5)
    world.flush()
    world.send_many(5)
    keys: Any = world.client.keys("*")
    older: dict[bytes, Any] = {key: world.client.dump(key) for key in keys}
    world.flush()
    world.client.flushall()
    for key, value in older.items():
        world.client.restore(key, 0, value)
    done = world.flush()
    assert done.notes.settled_before == 4 - 1
    assert done.notes.drift == 0
    world.assert_all_persisted()


def test_a_redis_that_was_emptied(world: World) -> None:
    """The new marker starts at the ledger's last flush: nothing is subtracted from new views; it is reported."""
    world.send("a", 5)
    world.flush()
    world.client.flushall()
    world.send("a", 2)
    done = world.flush()
    assert done.notes.redis_emptied
    assert done.notes.drift == 0
    world.assert_all_persisted()


def test_a_marker_that_vanishes_during_a_run(world: World) -> None:
    """The run stops with an error; the next one treats Redis as emptied."""
    world.send("a", 5)
    planned = world.drain()
    world.client.delete("viewer:settled")
    with pytest.raises(MarkerMoved, match="vanished before flush 1"):
        bulk_upsert(world.stores, *planned)
    assert world.totals() == {"a": 5}


def test_an_unreadable_marker_stops_a_run(world: World) -> None:
    """An unreadable hash stops the run before anything is read or committed."""
    world.send("a", 5)
    world.client.hset("viewer:settled", mapping={"flush": "x", "batch": 1, "batches": 1})
    with pytest.raises(MarkerUnreadable, match="flush, batch, batches"):
        world.flush()
    assert world.seqs() == []


def test_r8_a_commit_without_a_reply_is_resolved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flush was committed: it is settled and not repeated."""
    world.send_many(3)
    transact = transaction.commit_flush

    def lose_reply(*arguments: Any) -> Any:
        assert transact(*arguments) is not None
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(transaction, "commit_flush", lose_reply)
    done = world.flush()
    assert (done.seqs, done.views) == ([1], 9)
    world.assert_all_persisted()


def test_r8_a_commit_that_did_not_happen_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same error, but nothing was committed: the run fails, the views stay."""
    world.send_many(3)

    def lose_the_connection(*_: Any) -> bool:
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(transaction, "commit_flush", lose_the_connection)
    with pytest.raises(PostgresUnavailable):
        world.flush()
    assert world.seqs() == []
    world.assert_conserved()


def test_r8_unknown_outcome_then_the_same_snapshot_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster retries the step with a snapshot that was committed already: it is found, not counted twice."""
    world.send_many(3)
    planned = world.drain()
    transact = transaction.commit_flush

    def lose_all(*arguments: Any) -> bool:
        transact(*arguments)
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(transaction, "commit_flush", lose_all)
        patch.setattr(ledger.Ledger, "has_committed", lambda *_: False)
        with pytest.raises(PostgresUnavailable):
            bulk_upsert(world.stores, *planned)
    done = bulk_upsert(world.stores, *planned)
    assert (done.committed, done.recovered) == ([], [FlushRow(1, 3, 9, 2, "sweep")])
    assert done.notes.superseded == 0  # by nobody else
    world.assert_all_persisted()


def test_r10_nothing_that_counts_expires(world: World) -> None:
    """Neither counters of messages nor marker, changed set, lease or requests have a time to live."""
    folds = SubscriberScripts(world.stores.redis, increment=True)
    folds.acquire_or_renew_lease(claim(world.identity, "test", "mine"), 1000, 0)
    folds.fold_segment("mine", folds.publish_cut("test", "mine", 0), Counter(a=1, b=2), 1)
    world.sent.update(a=1, b=2)
    world.flush()
    folds.fold_segment("mine", folds.publish_cut("test", "mine", 1), Counter(b=2, c=3), 1)
    world.sent.update(b=2, c=3)
    world.stores.redis.request_sweep("test")
    keys: Any = world.client.keys("*")
    ours = ["viewer:changed", "viewer:pipelines", "viewer:settled", "viewer:subscriber", PREFIX + "b", PREFIX + "c"]
    assert {key.decode(): world.client.ttl(key) for key in keys} == dict.fromkeys(ours, -1)
    world.assert_conserved()


def test_r10_a_full_redis_that_evicts_volatile_keys(world: World) -> None:
    """Sessions are evicted (`volatile-lru`), counters are not: nothing is lost, and a run continues."""
    world.send_many(20)
    used, evicted = int(world.client.info("memory")["used_memory"]), world.client.info("stats")["evicted_keys"]
    with refusing(world, "maxmemory-policy", "volatile-lru", "noeviction"):
        world.client.config_set("maxmemory", used + 2_000_000)
        while world.client.info("stats")["evicted_keys"] == evicted:
            world.client.set(f"vod:session:{uuid4()}", "x" * 100_000, ex=86_400)
        world.assert_conserved()
        world.flush()
    world.assert_all_persisted()


@contextmanager
def refusing(world: World, name: str, value: str, back: str) -> Iterator[None]:
    """Make Redis refuse writes by a setting."""
    world.client.config_set(name, value)
    try:
        yield
    finally:
        world.client.config_set(name, back)


@pytest.mark.parametrize(
    ("name", "value", "back"),
    [("maxmemory", "1", "0"), ("min-replicas-to-write", "3", "0"), ("replicaof", "127.0.0.1 1", "no one")],
)
def test_r11_a_redis_that_refuses_writes(world: World, name: str, value: str, back: str) -> None:
    """Nothing is committed that could not be settled, also if there is a marker already; later runs recover."""
    world.send("before", 1)
    world.flush()
    world.send_many(3)
    if name == "replicaof":
        world.client.replicaof(*value.split())
    with refusing(world, *(("maxmemory", "0", "0") if name == "replicaof" else (name, value, back))):
        with pytest.raises(RedisRefusesWrites):
            world.flush()
        if name == "replicaof":
            world.client.replicaof("NO", "ONE")
    assert world.seqs() == [1]
    world.flush()
    world.assert_all_persisted()


def test_settling_without_memory_changes_nothing(world: World) -> None:
    """The script writes the marker first: refused there, it has subtracted nothing yet (rule R4)."""
    world.send_many(4)
    world.flush_unsettled()
    with refusing(world, "maxmemory", "1", "0"), pytest.raises(RedisRefusesWrites):
        world.flush()
    assert world.counters() == dict(world.sent)
    assert world.marker() == Marker(0, 0, 0)
    world.flush()
    world.assert_all_persisted()


@pytest.mark.parametrize("new_views", [False, True])
def test_r4_a_marker_that_cannot_be_moved(world: World, *, new_views: bool) -> None:
    """The script moves it before it subtracts: refused there, nothing has changed, and it settles later."""
    world.send_many(4)
    world.flush_unsettled()
    with world.stores.ledger.connect() as connection:
        batches, _ = read_batches_after(connection, 0, 0, 1, 100)
    if new_views:
        world.send_many(4)
    world.client.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-hset"])
    url = world.stores.redis.url.replace("redis://", "redis://limited:any@")
    try:
        with connect(url) as client, pytest.raises(RedisFailed):
            RedisStore(client, url, PREFIX).settle(world.at(0, 0, 0), batches)
    finally:
        world.client.acl_deluser("limited")
    assert world.counters() == dict(world.sent)
    assert world.marker() == Marker(0, 0, 0)
    world.flush()
    world.assert_all_persisted()


@pytest.mark.parametrize(
    ("held", "left", "drift"),
    [
        ({"a": 5, "b": 16}, {}, 0),
        ({"a": 6, "b": 16}, {"a": 1}, 0),
        ({"a": 16, "b": 5}, {"a": 11}, 11),
        ({"a": 51, "b": 6}, {"a": 46}, 10),
        ({"a": 5}, {}, 16),
        ({"a": "5 16", "b": 1}, {"a": "5 16"}, 20),
    ],
)
def test_r2_counters_are_lowered_by_their_own_delta(
    world: World, held: dict[str, Any], left: dict[str, Any], drift: int
) -> None:
    """Those that hold exactly their deltas are deleted together; not if one alone, or only their text, is the same."""
    world.send("a", 5)
    world.send("b", 16)
    planned = world.drain(batch_size=2)
    world.client.delete(PREFIX + "a", PREFIX + "b")
    world.client.mset({PREFIX + vod_id: value for vod_id, value in held.items()})
    done = bulk_upsert(world.stores, *planned)
    counters: Any = {vod_id: world.client.get(PREFIX + vod_id) for vod_id in ("a", "b")}
    assert counters == {vod_id: str(left[vod_id]).encode() if vod_id in left else None for vod_id in ("a", "b")}
    assert done.notes.drift == drift


def test_a_lowered_counter_is_reported(world: World) -> None:
    """Its counter becomes zero, never negative; the missing views are the drift; others are exact."""
    world.send("a", 5)
    world.send("b", 5)
    planned = world.drain()
    world.client.decrby(PREFIX + "a", 3)
    done = bulk_upsert(world.stores, *planned)
    assert (done.notes.drift, done.notes.drifted) == (3, ("a",))
    assert world.counters() == {}
    assert world.totals() == {"a": 5, "b": 5}


@pytest.mark.parametrize("value", [None, "abc", ["list"], str(-(2**63))])
def test_a_counter_of_another_type_does_not_stop_a_batch(world: World, value: Any) -> None:
    """Deleted, text, another type, or too low to be lowered: the rest of its batch is settled once."""
    world.send("a", 5)
    world.send("b", 5)
    planned = world.drain(flush_max_counters=1000, batch_size=1000)
    world.client.delete(PREFIX + "a")
    if isinstance(value, list):
        world.client.lpush(PREFIX + "a", *value)
    elif value is not None:
        world.client.set(PREFIX + "a", value)
    done = bulk_upsert(world.stores, *planned)
    assert done.notes.drifted == ("a",)
    assert done.notes.drift == 5
    assert world.totals() == {"a": 5, "b": 5}
    assert world.client.exists(PREFIX + "b") == 0
    assert world.marker() == Marker(1, 1, 1)


def test_drift_without_a_reply_is_reported_as_unknown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py repeats the scripts: each replies that it is done, without the drift of the first call."""
    world.send_many(4)
    planned = world.drain()
    world.client.decrby(PREFIX + "vod0000", 3)
    settle_some = RedisStore._send_settle_scripts

    def lose_replies(*arguments: Any) -> Any:
        settle_some(*arguments)
        return settle_some(*arguments)

    monkeypatch.setattr(RedisStore, "_send_settle_scripts", lose_replies)
    done = bulk_upsert(world.stores, *planned)
    assert (done.notes.drift, done.notes.settled_already) == (0, 2)
    (message,) = done.notes.sentences()
    assert message.startswith("2 batches settled already, by another run or by a script whose reply was lost")
    check = verify(world.stores, done)[-1]
    assert check.message == "drift is 0 views; of 2 batches it is not known"


@pytest.mark.parametrize("new_views", [0, 1])
def test_a_changed_set_of_another_type_does_not_stop_a_flush(world: World, new_views: int) -> None:
    """It is a hint: without it, counters are read by sweeps and settled all the same."""
    world.send("a", 5, announce=True)
    world.send("b", 5, announce=True)
    planned = world.drain()
    if new_views:
        world.send("a", new_views)
    world.client.delete("viewer:changed")
    world.client.set("viewer:changed", "taken")
    bulk_upsert(world.stores, *planned)
    world.client.set(PREFIX + "bad", "abc")
    assert world.totals() == {"a": 5, "b": 5}
    assert world.counters() == ({"a": new_views} if new_views else {})
    world.flush("changed")
    world.flush("sweep")
    assert world.totals() == {"a": 5 + new_views, "b": 5}


def test_a_script_with_too_few_deltas_changes_nothing(world: World) -> None:
    """A deltas argument of another length is an error before the first write."""
    world.send("a", 5)
    drain(world.stores, world.request())
    planned = Batch(1, 1, 1, world.stores.redis.now(), ["a"], [1, 2])
    with pytest.raises(Exception, match="2 deltas for 1 counters"):
        world.stores.redis.settle(world.at(0, 0, 0), [planned])
    assert world.marker() == Marker(0, 0, 0)
    assert world.counters() == {"a": 5}


def test_scripts_are_loaded_again_after_a_restart(world: World) -> None:
    """A restarted Redis has no script cache."""
    world.send("a", 5)
    world.client.script_flush()
    world.flush()
    world.client.zadd("viewer:changed", {"idle": 1})
    world.client.script_flush()
    world.flush("changed")
    assert world.client.zcard("viewer:changed") == 0
    world.assert_all_persisted()


def test_flush_ids_are_unique(world: World) -> None:
    """A lookup by flush_id finds this flush and no other."""
    world.send("a", 1)
    done = world.flush()
    assert world.stores.ledger.has_committed(done.committed[0].flush.flush_id)
    assert not world.stores.ledger.has_committed(uuid4())
