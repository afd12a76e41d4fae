"""A Redis that is emptied and a PostgreSQL that is rolled back, also during runs."""

from __future__ import annotations

from typing import Any

import pytest

from viewer_pipeline.errors import MarkerMoved, MarkerUnreadable
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger_reads import last_flush
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.streams import WHOLE
from viewer_pipeline_tests.support.world import World


def empty(world: World) -> None:
    """Empty Redis, as a failed disk does; only the pending views are lost."""
    for vod_id, views in world.counters().items():
        world.sent[vod_id] -= views
    world.sent += type(world.sent)()  # without zeros
    world.client.flushall()


def test_redis_is_emptied_before_the_marker_is_created(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run commits in between: its flush is not subtracted from views that arrive later."""
    world.send_many(4)
    world.flush()
    world.send_many(4)
    other = world.drain()
    begin = RedisStore.begin

    def emptied_first(store: RedisStore, *arguments: Any) -> Any:
        monkeypatch.undo()
        world.client.flushall()
        world.send_many(4, 7)
        with pytest.raises(MarkerMoved):  # it commits one flush, and finds no marker to settle it by
            bulk_upsert(world.stores, *other)
        return begin(store, *arguments)

    monkeypatch.setattr(RedisStore, "begin", emptied_first)
    done = world.flush()
    assert done.notes.redis_emptied
    assert world.marker() is not None
    world.flush()
    world.assert_all_persisted()


@pytest.mark.parametrize("vods", [4, 8])
def test_redis_is_emptied_after_a_commit(world: World, monkeypatch: pytest.MonkeyPatch, vods: int) -> None:
    """Counters of the new Redis are lowered neither by that flush nor by the next one of the same run."""
    world.send_many(vods)
    planned = world.drain()
    settle = Settler._settle

    def emptied_first(settler: Settler, *arguments: Any) -> None:
        monkeypatch.undo()
        world.client.flushall()
        world.send_many(vods, 7)
        drain(world.stores, world.request())  # another run begins: it makes the marker, or settles
        settle(settler, *arguments)

    monkeypatch.setattr(Settler, "_settle", emptied_first)
    done = bulk_upsert(world.stores, *planned)
    assert done.notes.skipped_views == 3 * vods - 12  # the other run skipped the first flush
    world.flush()
    world.assert_all_persisted()


def test_a_marker_made_below_a_flush_of_another_epoch(world: World) -> None:
    """The marker skips the flush, and the run reports the number of its views."""
    world.send_many(4)
    world.flush_unsettled()
    empty(world)
    with world.stores.ledger.connect() as connection:
        newest = last_flush(connection, WHOLE)
    world.stores.redis.begin("late", newest._replace(seq=0, batches=0), world.identity)  # it had read the ledger before
    world.sent.update({f"vod{number:04d}": 3 for number in range(4)})  # persisted above, and emptied afterwards
    world.send_many(4, 7)
    done = world.flush()
    assert done.notes.skipped_views == 12
    assert "12 views of the ledger not subtracted" in "; ".join(done.notes.sentences())
    world.assert_all_persisted()


def test_a_ledger_of_another_origin(world: World) -> None:
    """The marker is that of another database: flushes of this one are not subtracted from these counters."""
    world.send_many(4)
    world.flush()
    world.client.hset("viewer:settled", mapping={"epoch": "of another", "flush": 0, "batch": 0, "batches": 0})
    world.send_many(4, 7)
    assert world.flush().notes.skipped_views == 12
    world.assert_all_persisted()


def test_both_servers_fall_back_during_a_run(world: World) -> None:
    """PostgreSQL and Redis both fall back: the run's snapshot is invalid, although its number is free."""
    world.send_many(2)
    world.flush()
    world.send_many(2)
    keys: Any = world.client.keys("*")
    dump: dict[Any, Any] = {key: world.client.dump(key) for key in keys}
    world.flush()  # flush 2: both servers lose it below
    world.send_many(2)
    planned = world.drain()
    lost = world.seqs()[-1]
    world.client.flushall()
    for key, value in dump.items():
        world.client.restore(key, 0, value)
    world.execute("DELETE FROM viewer.flush_batch WHERE seq = %s", lost)
    world.execute("DELETE FROM viewer.flush WHERE seq = %s", lost)
    world.execute("UPDATE viewer.vod_view_counts SET view_count = 3, last_flush = 1")
    for vod_id in list(world.sent):
        world.sent[vod_id] = 6  # 3 persisted, 3 pending, as the servers have it now
    done = bulk_upsert(world.stores, *planned)
    assert done.notes.superseded == 1
    world.assert_all_persisted()


def test_a_marker_beyond_the_integers_of_lua(world: World) -> None:
    """Refused with an error, instead of being off by one."""
    world.client.hset("viewer:settled", mapping={"flush": 2**53 + 1, "batch": 1, "batches": 1})
    with pytest.raises(MarkerUnreadable, match="no ledger comes as far"):
        world.flush()


@pytest.mark.parametrize("other_run", [False, True])
def test_redis_is_emptied_while_counters_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch, *, other_run: bool
) -> None:
    """Counters of the new Redis could never be subtracted: they are discarded, and read again."""
    world.send_many(4)
    world.flush()
    read = RedisStore.read

    def emptied_first(store: RedisStore, *arguments: Any) -> Any:
        monkeypatch.undo()
        world.client.flushall()
        world.send_many(4, 7)
        if other_run:
            drain(world.stores, world.request())
        return read(store, *arguments)

    monkeypatch.setattr(RedisStore, "read", emptied_first)
    world.flush()
    world.assert_all_persisted()


def test_redis_is_emptied_and_reused_before_a_commit(world: World) -> None:
    """The new marker stands exactly where the flush would continue: only its epoch identifies other counters."""
    world.send_many(4)
    planned = world.drain()
    world.client.flushall()
    with world.stores.ledger.connect() as connection:
        world.stores.redis.begin("another run", last_flush(connection, WHOLE), world.identity)
    world.send_many(4, 7)
    done = bulk_upsert(world.stores, *planned)
    assert done.notes.skipped_views == 12
    assert world.counters() == {f"vod{number:04d}": 7 for number in range(4)}
    world.flush()
    world.assert_all_persisted()
