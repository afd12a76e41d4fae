"""What `bench flush` measures, and its medians over the rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import astuple, dataclass

from viewer_pipeline.bench.complete_run import CompleteRun, StepSeconds
from viewer_pipeline.bench.row_lock_and_double_count_times import LocksAndDoubleCounts
from viewer_pipeline.bench.server_usage import ServerUsage


@dataclass(frozen=True)
class FlushStats:
    """Medians over the runs, in seconds unless the name says otherwise."""

    mode: str
    counters: int
    runs: int
    flush: float  # drain to settled, totals published
    complete_run: float  # with the start of the process, verification, the top VODs and the rest
    steps: StepSeconds
    processes: float  # of a complete run, one after the other
    counters_per_second: int  # of the flush
    upsert_raw: float  # the same rows by binary COPY and INSERT … ON CONFLICT, sorted: no ledger, no Redis
    upsert_ratio: float  # upsert_raw / flush: the median over pairs
    merge_raw: float  # the same rows by binary COPY and `merge_statement`
    merge_ratio: float
    merge_statement: str
    wal_bytes_per_counter: float  # of the complete run
    upsert_wal_bytes_per_counter: float
    merge_wal_bytes_per_counter: float
    process_cpu: float  # of the process of the run, without its start
    postgres_cpu: float  # of all its processes during the complete run, to 0.01
    redis_cpu: float  # during the complete run
    peak_mb: float  # of the process of a run: the highest
    ledger_bytes_per_counter: float  # of each flush
    totals_bytes_per_counter: float
    locks_and_double_counts: LocksAndDoubleCounts


@dataclass(frozen=True)
class Round:
    """One measurement of both references and of the complete run, with what the servers used for each."""

    upsert: float
    upsert_usage: ServerUsage
    merge: float
    merge_usage: ServerUsage
    run: CompleteRun
    run_usage: ServerUsage


def summarise(
    rounds: list[Round],
    *,
    mode: str,
    merge_statement: str,
    ledger_bytes_per_counter: float,
    totals_bytes_per_counter: float,
    locks_and_double_counts: LocksAndDoubleCounts,
) -> FlushStats:
    """Return the medians over the rounds, and the highest peak."""
    counters = rounds[0].run.counters

    def median(of: Callable[[Round], float]) -> float:
        return float(statistics.median(map(of, rounds)))

    flush = median(lambda r: r.run.seconds.flush)
    steps = (astuple(r.run.seconds) for r in rounds)
    return FlushStats(
        mode=mode,
        counters=counters,
        runs=len(rounds),
        flush=flush,
        complete_run=median(lambda r: r.run.seconds.complete_run),
        steps=StepSeconds(*map(statistics.median, zip(*steps, strict=True))),
        processes=median(lambda r: r.run.processes),
        counters_per_second=round(counters / flush),
        upsert_raw=median(lambda r: r.upsert),
        upsert_ratio=median(lambda r: r.upsert / r.run.seconds.flush),
        merge_raw=median(lambda r: r.merge),
        merge_ratio=median(lambda r: r.merge / r.run.seconds.flush),
        merge_statement=merge_statement,
        wal_bytes_per_counter=median(lambda r: r.run_usage.wal_bytes / counters),
        upsert_wal_bytes_per_counter=median(lambda r: r.upsert_usage.wal_bytes / counters),
        merge_wal_bytes_per_counter=median(lambda r: r.merge_usage.wal_bytes / counters),
        process_cpu=median(lambda r: r.run.cpu_seconds),
        postgres_cpu=median(lambda r: r.run_usage.postgres_cpu_seconds),
        redis_cpu=median(lambda r: r.run_usage.redis_cpu_seconds),
        peak_mb=max(r.run.peak_mb for r in rounds),
        ledger_bytes_per_counter=ledger_bytes_per_counter,
        totals_bytes_per_counter=totals_bytes_per_counter,
        locks_and_double_counts=locks_and_double_counts,
    )
