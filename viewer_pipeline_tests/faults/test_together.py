"""Many concurrent flushers without locks, while views arrive."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from viewer_pipeline.errors import TransientError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.world import PREFIX, World

VODS = 30
SENDS = 1000  # at least, and on until
COLLISIONS = 5  # of each flusher, on an average


def flush_until(stopped: threading.Event, collisions: list[int], redis_url: str, database_url: str) -> None:
    """Flush repeatedly; count how often another flusher was first."""
    with connect(redis_url) as client:
        world = World(Stores(RedisStore(client, redis_url, PREFIX), Ledger(database_url)))
        while not stopped.is_set():
            try:
                done = world.flush(flush_max_counters=8)
            except TransientError:  # others kept the marker moving; the views are still there
                continue
            if done.notes.superseded:
                collisions.append(done.notes.superseded)


@pytest.mark.parametrize("flushers", [2, 20])
def test_flushers_without_locks(world: World, redis_url: str, database_url: str, flushers: int) -> None:
    """Two, and twenty, flushers and a producer: every view is persisted once, and they did collide."""
    stopped, collisions = threading.Event(), list[int]()
    with ThreadPoolExecutor(flushers) as pool:
        running = [pool.submit(flush_until, stopped, collisions, redis_url, database_url) for _ in range(flushers)]
        try:
            for number in count():
                if any(future.done() for future in running):  # it failed
                    break
                if number >= SENDS and sum(collisions) >= COLLISIONS * flushers:
                    break
                world.send(f"vod{number % VODS:04d}", 1 + number % 3)
        finally:
            stopped.set()
        for future in running:
            future.result()
    world.flush()
    world.assert_all_persisted()
    ledger = world.rows("SELECT sum(d) FROM viewer.flush_batch, unnest(deltas) AS d")
    assert ledger == [(world.sent.total(),)]
    seqs = world.seqs()
    assert seqs == list(range(1, len(seqs) + 1))
