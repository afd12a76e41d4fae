"""How fast a flush is, beside the same rows written by PostgreSQL alone."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import psycopg

from viewer_pipeline.bench.rig import Seconds, fill, ids_of, rig, write_raw
from viewer_pipeline.bench.watch import Watched, watch
from viewer_pipeline.flush.request import Request

RAW_TABLE = (
    "CREATE TABLE raw_counts (LIKE viewer.vod_view_counts INCLUDING ALL)",
    "ALTER TABLE raw_counts SET (fillfactor = 50)",  # LIKE does not copy it
)
RAW_UPSERT = """
INSERT INTO raw_counts AS t (vod_id, view_count, last_flush, updated_at)
SELECT vod_id, delta, 1, statement_timestamp() FROM stage ORDER BY vod_id COLLATE "C"
ON CONFLICT (vod_id) DO UPDATE SET view_count = t.view_count + excluded.view_count,
    last_flush = excluded.last_flush, updated_at = excluded.updated_at
"""


@dataclass(frozen=True)
class FlushFigures:
    """Medians over the runs, in seconds unless the name says otherwise."""

    counters: int
    runs: int
    flush: float
    drain: float
    aggregate: float
    upsert: float
    settle: float
    raw: float  # the same rows by binary COPY and one sorted upsert: no ledger, no Redis
    ratio: float  # raw / flush: the median over pairs
    counters_per_second: int
    peak_mb: float
    watched: Watched


def bench_flush(counters: int, *, runs: int = 5, batch_size: int, flush_max_counters: int) -> FlushFigures:
    """Flush `counters` existing counters `runs` times after a warm-up, each time beside the raw reference."""
    request = Request("bench", "sweep", batch_size=batch_size, flush_max_counters=flush_max_counters)
    ids = ids_of(counters)
    with rig() as servers:
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            for statement in RAW_TABLE:
                connection.execute(statement)
        pairs: list[tuple[float, Seconds]] = []
        for run in range(runs + 1):
            deltas = [(number * 7 + run) % 500 + 1 for number in range(counters)]
            raw = write_raw(servers, ids, deltas, RAW_UPSERT)
            fill(servers.client, ids, deltas)
            pairs.append((raw, servers.flush(request)))
        watched = watch(servers, request, ids)
    return _figures(counters, pairs[1:], watched)


def _figures(counters: int, pairs: list[tuple[float, Seconds]], watched: Watched) -> FlushFigures:
    def median(name: str) -> float:
        return float(statistics.median(getattr(seconds, name) for _, seconds in pairs))

    return FlushFigures(
        counters=counters,
        runs=len(pairs),
        flush=median("flush"),
        drain=median("drain"),
        aggregate=median("aggregate"),
        upsert=median("upsert"),
        settle=median("settle"),
        raw=statistics.median(raw for raw, _ in pairs),
        ratio=statistics.median(raw / seconds.flush for raw, seconds in pairs),
        counters_per_second=round(counters / median("flush")),
        peak_mb=max(seconds.peak_mb for _, seconds in pairs),
        watched=watched,
    )
