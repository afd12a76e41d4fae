"""A sweep whose Redis is restarted, replaced or emptied between two of its parts, and runs that die or meet there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from viewer_pipeline.flush import commit, counter_reader, ledger
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.sweep_position import SweepPosition
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.dying import Died
from viewer_pipeline_tests.support.failover import RedisPair
from viewer_pipeline_tests.support.world import PREFIX, World

VODS, LIMIT = 60, 10


@pytest.fixture(autouse=True)
def _short_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each SCAN call return few keys, as if there were many."""
    monkeypatch.setattr(counter_reader, "SCAN_COUNT", 3)


def begin_sweep(world: World) -> SweepPosition:
    """Request a sweep, and run its first part; return the position."""
    world.send_many(VODS)
    world.stores.redis.request_sweep("test")
    assert world.flush(run_max_counters=LIMIT).remaining
    return position_of(world)


def position_of(world: World) -> SweepPosition:
    """Return the position of the sweep that is under way."""
    position = SweepPosition.parse(world.stores.redis.sweep_position())
    assert position is not None
    return position


def begins_again(world: World, reason: str) -> None:
    """Assert that the next run begins at the first key, with a note, and that a whole pass fulfils the request."""
    runs = list[RunReport]()
    while not runs or runs[-1].remaining:
        assert world.stores.redis.sweep_request() is not None
        runs.append(world.flush(run_max_counters=LIMIT))
    first = runs[0].snapshot.progress.part
    assert first is not None
    assert first.begin.cursor == 0
    assert f"the sweep began again at the first key: {reason}" in " ".join(runs[0].notes.sentences())
    world.assert_all_persisted()
    assert (world.stores.redis.sweep_request(), world.stores.redis.sweep_position()) == (None, b"")


def dies(*_: object) -> bool:
    """Stand for a call before which the process is killed."""
    raise Died


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[RedisPair]:
    """A primary and a replica behind one address."""
    pair = RedisPair(tmp_path)
    try:
        pair.start()
        yield pair
    finally:
        pair.stop()


def test_redis_is_restarted(tmp_path: Path, database_url: str) -> None:
    """With all its data: the order of its keys is another one."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        with connect(server.url) as client:
            world = World(Stores(RedisStore(client, server.url, PREFIX), Ledger(database_url)))
            before = begin_sweep(world)
            client.config_set("appendfsync", "always")
            world.send("last", 1)
            server.stop()
            server.start()
            assert position_of(world) == before
            begins_again(world, "Redis was restarted or replaced since")
    finally:
        server.stop()


def test_redis_fails_over(pair: RedisPair, database_url: str) -> None:
    """To a replica that has all: it is another process. The old one is continued if it comes back."""
    with connect(pair.url) as client:
        world = World(Stores(RedisStore(client, pair.url, PREFIX), Ledger(database_url)))
        before = begin_sweep(world)
        pair.demote()
        pair.lead_to_the_new()
        client.connection_pool.disconnect()
        assert position_of(world) == before
        begins_again(world, "Redis was restarted or replaced since")


def test_redis_fails_over_during_a_part(pair: RedisPair, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part is not committed as read: its calls do not continue on another server."""
    with connect(pair.url) as client:
        world = World(Stores(RedisStore(client, pair.url, PREFIX), Ledger(database_url)))
        begin_sweep(world)
        seen, scan = list[int](), RedisStore.scan_ahead

        def fail_over(store: RedisStore, cursor: int, limit: int) -> Iterator[tuple[int, list[bytes]]]:
            for page in scan(store, cursor, limit):
                yield page
                if not seen:
                    seen.append(page[0])
                    pair.separate()
                    pair.lead_to_the_new()
                    pair.primary.client_kill_filter(_type="normal")

        monkeypatch.setattr(RedisStore, "scan_ahead", fail_over)
        with pytest.raises(Exception, match="Redis"):
            world.flush(run_max_counters=LIMIT)
        assert seen
        monkeypatch.undo()
        begins_again(world, "Redis was restarted or replaced since")


def test_redis_is_emptied(world: World) -> None:
    """The position is gone with the counters; views that come in afterwards are swept from the first key."""
    begin_sweep(world)
    world.client.flushall()
    world.sent.clear()
    world.sent.update(world.totals())
    world.send_many(VODS, 2)
    runs = world.flush_in_parts(LIMIT)
    assert runs[0].snapshot.progress.part is not None
    assert runs[0].snapshot.progress.part.begin.cursor == 0
    assert runs[0].notes.redis_emptied
    world.assert_all_persisted()


def test_a_position_of_another_epoch(world: World) -> None:
    """The marker was lost, and nothing else."""
    begin_sweep(world)
    world.client.delete("viewer:settled")
    begins_again(world, "Redis was emptied since")


def test_a_superseded_part_is_not_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other runs committed first each time: the next run reads the part again."""
    before = begin_sweep(world)
    monkeypatch.setattr(ledger.Ledger, "commit", lambda *_: None)
    done = world.flush(run_max_counters=LIMIT)
    assert (done.left_over, done.remaining, done.notes.superseded) == (True, 0, commit.SUPERSEDED_TRIES)
    monkeypatch.undo()
    assert position_of(world) == before
    world.flush_in_parts(LIMIT)
    world.assert_all_persisted()


def test_a_run_dies_before_it_stores_its_position(world: World) -> None:
    """All is committed and settled; the next run finds nothing left in this part, and continues."""
    before = begin_sweep(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RedisStore, "advance_sweep", dies)
        with pytest.raises(Died):
            world.flush(run_max_counters=LIMIT)
    assert position_of(world) == before
    world.flush_in_parts(LIMIT)
    world.assert_all_persisted()


def test_two_sweeps_at_the_same_time(world: World) -> None:
    """Both begin at one position; the slower one is superseded, continues behind the other, and no key is left out."""
    begin_sweep(world)
    slow = drain(world.stores, world.request(run_max_counters=LIMIT))
    fast = world.flush(run_max_counters=LIMIT)
    done = bulk_upsert(world.stores, slow, aggregate(slow.readings))
    ahead, behind = fast.snapshot.progress.part, done.snapshot.progress.part
    assert ahead is not None
    assert behind is not None
    assert done.notes.superseded == 1
    assert behind.begin == ahead.end
    world.flush_in_parts(LIMIT)
    world.assert_all_persisted()
