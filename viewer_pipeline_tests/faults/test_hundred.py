"""A hundred concurrent flushers in several processes, without locks, while views arrive."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from viewer_pipeline.errors import TransientError
from viewer_pipeline.flush.flush_request import Mode
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.calls import fork, joined
from viewer_pipeline_tests.support.waiting import ENOUGH
from viewer_pipeline_tests.support.world import PREFIX, World

PROCESSES, THREADS = 4, 25
ROUNDS = 2  # flushes that each flusher tries
VODS = 40
SENDS = 2000  # by each of two producers
MODES: tuple[Mode, ...] = ("sweep", "changed")


def flush_rounds(number: int, together: threading.Barrier, stores: Stores) -> Counter[str]:
    """Run several flushes, each started at the same time as those of the other threads; return the outcomes."""
    outcomes: Counter[str] = Counter()
    url = stores.redis.url
    with connect(url) as client:
        own = World(Stores(RedisStore(client, url, PREFIX), stores.ledger))
        for round_number in range(ROUNDS):
            together.wait()
            try:
                mode = MODES[(number + round_number) % len(MODES)]
                done = own.flush(mode, flush_max_counters=8)
            except TransientError as error:  # others kept the marker moving, or took all connections
                outcomes[type(error).__name__] += 1
            else:
                outcomes += Counter(flushes=1, views=done.views, superseded=done.notes.superseded)
                assert done.notes.drift == 0
    return outcomes


def flushers(stores: Stores, report: Path) -> None:
    """Run the flushers of one process; write their outcomes to a file."""
    together = threading.Barrier(THREADS, timeout=ENOUGH)
    with ThreadPoolExecutor(THREADS) as pool:
        running = [pool.submit(flush_rounds, number, together, stores) for number in range(THREADS)]
        outcomes = sum((future.result() for future in running), Counter[str]())
    report.write_text(json.dumps(outcomes), encoding="utf-8")


def produce(stores: Stores) -> None:
    """Send views at full speed."""
    with connect(stores.redis.url) as client:
        for number in range(SENDS):
            client.incrby(f"{PREFIX}vod{number % VODS:04d}", 1 + number % 3)
            client.zadd("viewer:changed", {f"vod{number % VODS:04d}": 1}, nx=True)


def test_a_hundred_flushers(world: World, tmp_path: Path, add_to_summary: Callable[[str], None]) -> None:
    """Every view is persisted once, without any coordination between the flushers."""
    started = time.monotonic()
    world.send_many(VODS)
    reports = [tmp_path / f"report{number}" for number in range(PROCESSES)]
    children = [fork(partial(flushers, world.stores, path), path.with_suffix(".failed")) for path in reports]
    children += [fork(partial(produce, world.stores), tmp_path / f"producer{number}.failed") for number in range(2)]
    assert [joined(child) for child in children] == [0] * (PROCESSES + 2)
    for number in range(SENDS):
        world.sent[f"vod{number % VODS:04d}"] += 2 * (1 + number % 3)
    outcomes = sum((Counter(json.loads(path.read_text(encoding="utf-8"))) for path in reports), Counter[str]())
    done = world.flush()
    assert done.notes.drift == 0
    world.assert_conserved()
    world.assert_all_persisted()
    assert outcomes["views"] + done.views <= world.sent.total()
    counted = world.rows("SELECT coalesce(sum(d), 0) FROM viewer.flush_batch, unnest(deltas) AS d")
    assert counted == [(world.sent.total(),)]
    seqs = world.seqs()
    assert seqs == list(range(1, len(seqs) + 1))
    assert outcomes["superseded"] > 0
    add_to_summary(f"{PROCESSES * THREADS} flushers: {dict(outcomes)} in {time.monotonic() - started:.0f} s")
