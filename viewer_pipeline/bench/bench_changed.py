"""Whether the cost of a flush depends on the changed counters or on the stored keys."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from viewer_pipeline.bench.rig import Rig, fill, make_ids, rig
from viewer_pipeline.flush.request import Request

PIPELINE = 20_000


@dataclass(frozen=True)
class ChangedStats:
    """Medians over the runs, in seconds."""

    counters: int
    other_keys: int
    alone: float
    with_other_keys: float
    ratio: float  # with_other_keys / alone


def bench_changed(counters: int, others: int, *, runs: int) -> ChangedStats:
    """Flush `counters` announced counters in an empty Redis, then beside `others` unrelated keys."""
    with rig() as servers:
        _median(servers, counters, 1)  # warm-up
        alone = _median(servers, counters, runs)
        pipe = servers.client.pipeline(transaction=False)
        for number in range(1, others + 1):
            pipe.set(f"vod:session:{number % 5000}:{number}", b"1", ex=86_400)
            if number % PIPELINE == 0:
                pipe.execute()
        pipe.execute()
        with_other_keys = _median(servers, counters, runs)
    return ChangedStats(counters, others, alone, with_other_keys, with_other_keys / alone)


def _median(servers: Rig, counters: int, runs: int) -> float:
    ids, seconds = make_ids(counters), []
    for _ in range(runs):
        fill(servers.client, ids, [3] * counters, announce=True)
        seconds.append(servers.flush(Request("bench", "changed")).flush)
    return statistics.median(seconds)
