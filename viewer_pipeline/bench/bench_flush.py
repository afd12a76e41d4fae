"""The speed of a flush, beside the same rows written by PostgreSQL alone."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import psycopg

from viewer_pipeline.bench.bench_servers import StepSeconds, bench_servers, increment_counters, make_ids, time_raw_write
from viewer_pipeline.bench.row_lock_and_double_count_times import LocksAndDoubleCounts, measure_locks_and_double_counts
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.stores.named_queries import named_queries

SQL = named_queries(__name__)


@dataclass(frozen=True)
class FlushStats:
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
    locks_and_double_counts: LocksAndDoubleCounts


def bench_flush(counters: int, *, runs: int = 5, batch_size: int, flush_max_counters: int) -> FlushStats:
    """Flush `counters` existing counters `runs` times after a warm-up, each time beside the raw reference."""
    request = FlushRequest("bench", "sweep", batch_size=batch_size, flush_max_counters=flush_max_counters)
    ids = make_ids(counters)
    with bench_servers() as servers:
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            connection.execute(SQL["create_raw_counts"])
            connection.execute(SQL["set_fillfactor"])
        pairs: list[tuple[float, StepSeconds]] = []
        for run in range(runs + 1):
            deltas = [(number * 7 + run) % 500 + 1 for number in range(counters)]
            raw = time_raw_write(servers, ids, deltas, SQL["upsert_raw_counts"])
            increment_counters(servers.client, ids, deltas)
            pairs.append((raw, servers.flush_in_other_process(request)))
        locks_and_double_counts = measure_locks_and_double_counts(servers, request, ids)
    return _summarise(counters, pairs[1:], locks_and_double_counts)


def _summarise(
    counters: int, pairs: list[tuple[float, StepSeconds]], locks_and_double_counts: LocksAndDoubleCounts
) -> FlushStats:
    def median(name: str) -> float:
        return float(statistics.median(getattr(seconds, name) for _, seconds in pairs))

    return FlushStats(
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
        locks_and_double_counts=locks_and_double_counts,
    )
