"""Many flushers at once, without any lock, while views come in."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from viewer_pipeline.counting import flush
from viewer_pipeline.counting.flush import Stores
from viewer_pipeline.counting.frame import aggregate
from viewer_pipeline.counting.ledger import Ledger
from viewer_pipeline.counting.redis_client import connect
from viewer_pipeline.counting.redis_store import RedisStore
from viewer_pipeline.errors import TransientError
from viewer_pipeline_tests.world import PREFIX, World

VODS = 30
SENDS = 3000


def flush_until(stopped: threading.Event, redis_url: str, database_url: str) -> tuple[int, int]:
    """Flush again and again; return how many views were committed, and how often another flusher was first."""
    views = superseded = 0
    with connect(redis_url) as client:
        stores = Stores(RedisStore(client, redis_url, PREFIX), Ledger(database_url))
        while not stopped.is_set():
            try:
                snapshot = flush.drain(stores, World.request(flush_max_counters=8))
                done = flush.bulk_upsert(stores, snapshot, aggregate(snapshot.readings))
            except TransientError:  # others kept the marker moving; the views are still there
                continue
            views += done.views
            superseded += done.findings.superseded
    return views, superseded


@pytest.mark.parametrize("flushers", [2, 20])
def test_flushers_without_locks(world: World, redis_url: str, database_url: str, flushers: int) -> None:
    """Two, and twenty, flushers and a producer: every view is persisted once, and they did collide."""
    stopped = threading.Event()
    with ThreadPoolExecutor(flushers) as pool:
        running = [pool.submit(flush_until, stopped, redis_url, database_url) for _ in range(flushers)]
        for number in range(SENDS):
            world.send(f"vod{number % VODS:04d}", 1 + number % 3)
        stopped.set()
        results = [future.result() for future in running]
    world.flush()
    world.assert_all_persisted()
    ledger = world.rows("SELECT sum(d) FROM viewer.flush_batch, unnest(deltas) AS d")
    assert ledger == [(world.sent.total(),)]
    seqs = world.seqs()
    assert seqs == list(range(1, len(seqs) + 1))
    assert sum(superseded for _, superseded in results) > 0
