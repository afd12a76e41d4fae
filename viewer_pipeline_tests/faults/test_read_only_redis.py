"""A Redis that replies but refuses writes: nothing is committed that cannot be settled; runs recover."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from viewer_pipeline.errors import RedisRefusesWrites, RedisUnavailable, TransientError
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.servers import Redis
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World


@contextmanager
def paused(world: World, _server: Redis) -> Iterator[type[TransientError]]:
    """Pause all writes, as before a planned failover."""
    world.client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")  # type: ignore[no-untyped-call]
    try:
        yield RedisUnavailable
    finally:
        world.client.client_unpause()


@contextmanager
def a_replica(world: World, _server: Redis) -> Iterator[type[TransientError]]:
    """Make the server a replica."""
    world.client.replicaof("127.0.0.1", "1")
    try:
        yield RedisRefusesWrites
    finally:
        world.client.replicaof("NO", "ONE")


@contextmanager
def full(world: World, _server: Redis) -> Iterator[type[TransientError]]:
    """Leave no memory for writes."""
    world.client.config_set("maxmemory", 1)
    try:
        yield RedisRefusesWrites
    finally:
        world.client.config_set("maxmemory", 0)


@contextmanager
def unsaved(world: World, server: Redis) -> Iterator[type[TransientError]]:
    """Let a snapshot fail: MISCONF."""
    in_its_place = server.directory / "dump.rdb"
    if not os.access(server.directory, os.W_OK):
        pytest.skip(f"the directory of the Redis named by TEST_REDIS_URL is out of reach: {server.directory}")
    in_its_place.mkdir()
    world.client.config_set("save", "3600 1")
    world.client.bgsave()
    wait_until(lambda: world.client.info("persistence")["rdb_last_bgsave_status"] == "err", 20, "a failed snapshot")
    try:
        yield RedisRefusesWrites
    finally:
        in_its_place.rmdir()
        world.client.bgsave()
        wait_until(lambda: world.client.info("persistence")["rdb_last_bgsave_status"] == "ok", 20, "a snapshot")
        in_its_place.unlink()
        world.client.config_set("save", "")


WAYS: list[Callable[..., object]] = [paused, a_replica, full, unsaved]


def with_short_timeout(world: World) -> World:
    """Return the same world with a short timeout of Redis."""
    url = world.stores.redis.url
    made = World(Stores(RedisStore(connect(url, seconds=0.4, retries=0), url, PREFIX), world.stores.ledger))
    made.sent = world.sent
    return made


@pytest.mark.parametrize("way", WAYS)
def test_writes_are_refused_before_a_run(world: World, redis_server: Redis, way: Callable[..., object]) -> None:
    """Nothing is committed, so a reader who adds both servers sees every view once; the next run counts them."""
    world.send("before", 1)
    world.flush()
    world.send_many(3)
    run = with_short_timeout(world)
    with way(world, redis_server) as error:  # type: ignore[attr-defined]
        with pytest.raises(error):
            run.flush()
        assert world.seqs() == [1]
        world.assert_conserved()
    world.flush()
    world.assert_all_persisted()
    run.client.close()


@pytest.mark.parametrize("way", WAYS)
def test_writes_are_refused_within_a_run(world: World, redis_server: Redis, way: Callable[..., object]) -> None:
    """After the last read: at most two flushes are committed and unsettled, and the next run settles them first."""
    world.send_many(20)
    run = with_short_timeout(world)
    snapshot = drain(run.stores, run.request())
    with way(world, redis_server) as error:  # type: ignore[attr-defined]
        with pytest.raises(error):
            bulk_upsert(run.stores, snapshot, aggregate(snapshot.readings))
        assert world.seqs() in ([1], [1, 2])
        assert world.counters() == dict(world.sent)
        committed = len(world.seqs())
    assert world.flush().notes.settled_before in (0, 2 * committed)  # what was held back may go through at last
    world.assert_all_persisted()
    run.client.close()
