"""Whether the cost of a flush depends on the changed counters or on the stored keys."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from viewer_pipeline.bench.bench_servers import BenchServers, bench_servers, increment_counters, make_ids
from viewer_pipeline.flush.flush_request import FlushRequest

PIPELINE = 20_000


@dataclass(frozen=True)
class UnrelatedKeysStats:
    """Medians over the runs, in seconds."""

    counters: int
    unrelated_keys: int
    alone: float
    with_unrelated_keys: float
    ratio: float  # with_unrelated_keys / alone


def bench_unrelated_keys(counters: int, unrelated_keys: int, *, runs: int) -> UnrelatedKeysStats:
    """Flush `counters` announced counters in an empty Redis, then beside `unrelated_keys` unrelated keys."""
    with bench_servers() as servers:
        _median_flush_seconds(servers, counters, 1)  # warm-up
        alone = _median_flush_seconds(servers, counters, runs)
        pipe = servers.client.pipeline(transaction=False)
        for number in range(1, unrelated_keys + 1):
            pipe.set(f"vod:session:{number % 5000}:{number}", b"1", ex=86_400)
            if number % PIPELINE == 0:
                pipe.execute()
        pipe.execute()
        with_unrelated_keys = _median_flush_seconds(servers, counters, runs)
    return UnrelatedKeysStats(counters, unrelated_keys, alone, with_unrelated_keys, with_unrelated_keys / alone)


def _median_flush_seconds(servers: BenchServers, counters: int, runs: int) -> float:
    ids, seconds = make_ids(counters), []
    for _ in range(runs):
        increment_counters(servers.client, ids, [3] * counters, mark_changed=True)
        seconds.append(servers.flush_in_other_process(FlushRequest("bench", "changed")).flush)
    return statistics.median(seconds)
