"""Does the cost of a flush follow what changed, or what is stored?"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from viewer_pipeline.bench.rig import Rig, fill, ids_of, rig
from viewer_pipeline.flush.request import Request

PIPELINE = 20_000


@dataclass(frozen=True)
class ChangedFigures:
    """Medians over the runs, in seconds."""

    counters: int
    other_keys: int
    alone: float
    beside: float
    ratio: float  # beside / alone


def bench_changed(counters: int, others: int, *, runs: int) -> ChangedFigures:
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
        beside = _median(servers, counters, runs)
    return ChangedFigures(counters, others, alone, beside, beside / alone)


def _median(servers: Rig, counters: int, runs: int) -> float:
    ids, seconds = ids_of(counters), []
    for _ in range(runs):
        fill(servers.client, ids, [3] * counters, announce=True)
        seconds.append(servers.flush(Request("bench", "changed")).flush)
    return statistics.median(seconds)
