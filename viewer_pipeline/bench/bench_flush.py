"""A flush and the complete run around it, beside the same rows written by PostgreSQL alone."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from itertools import pairwise

from viewer_pipeline.bench.bench_servers import BenchServers, bench_servers, increment_counters, make_ids
from viewer_pipeline.bench.bench_unrelated_keys import set_unrelated_keys
from viewer_pipeline.bench.complete_run import CompleteRun, StepSeconds, run_until_flushed
from viewer_pipeline.bench.raw_write import time_raw_write
from viewer_pipeline.bench.row_lock_and_double_count_times import LocksAndDoubleCounts, measure_locks_and_double_counts
from viewer_pipeline.bench.server_usage import ServerUsage
from viewer_pipeline.bench.totals_subscriber import TotalsSubscriber
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.stores.named_queries import fetch_one, named_queries

SQL = named_queries(__name__)

MANY_COUNTERS = 1_000_000  # from here on, MANY_COUNTERS_RUNS are enough
MANY_COUNTERS_RUNS = 2
OTHERS = 100_000  # VODs with totals, and keys that are no counters, beside those of the mode `changed`
FEW_ROWS = 1_000  # of an unknown table: PostgreSQL assumes more, and would read all totals instead of those of the rows
MERGE_SINCE = 170000  # the version of PostgreSQL from which flushes use it


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
    process_cpu: float  # of the process of the run
    postgres_cpu: float  # of all its processes during the complete run, in hundredths
    redis_cpu: float  # likewise
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


def bench_flush(request: FlushRequest, counters: int, *, runs: int) -> FlushStats:
    """Flush `counters` counters of VODs that have totals, `runs` times, each time beside both references.

    Mode `changed`: they are announced, and among OTHERS VODs with totals and as many unrelated keys.
    """
    changed, many = request.mode == "changed", counters >= MANY_COUNTERS
    ids = make_ids(counters + OTHERS * changed)
    flushed_ids = sorted(random.Random(7).sample(ids, counters)) if changed else ids  # noqa: S311 - the same each time
    with bench_servers() as servers, TotalsSubscriber(servers.client, servers.settings.totals_channel) as subscriber:
        _create_totals(servers, replace(request, mode="sweep"), ids)
        subscriber.wait_for(len(ids))
        set_unrelated_keys(servers.client, OTHERS * changed)
        rounds = list[Round]()
        for number in range(min(runs, MANY_COUNTERS_RUNS) if many else runs):
            rounds.append(_measure_round(servers, request, flushed_ids, number))
            subscriber.wait_for(counters)
        ledger_bytes, totals_bytes = map(float, fetch_one(servers.connection, SQL["read_bytes_per_counter"]))
        locks = measure_locks_and_double_counts(servers, request, flushed_ids, runs=1 if many else 3)
        merge_statement = _merge_statement(servers)
    return _summarise(
        rounds,
        mode=request.mode,
        merge_statement=merge_statement,
        ledger_bytes_per_counter=ledger_bytes,
        totals_bytes_per_counter=totals_bytes,
        locks_and_double_counts=locks,
    )


def _create_totals(servers: BenchServers, request: FlushRequest, ids: list[str]) -> None:
    """Flush a first time, and write the same rows to the tables of the references."""
    ones = [1] * len(ids)
    servers.connection.execute(SQL["create_raw_upserted"])
    time_raw_write(servers.database_url, ids, ones, SQL["upsert_raw"])
    servers.connection.execute(SQL["create_raw_merged"])
    increment_counters(servers.client, ids, ones)
    run_until_flushed(servers, request, len(ids))
    servers.connection.execute("VACUUM ANALYZE viewer.vod_view_counts, raw_upserted, raw_merged")


def _merge_statement(servers: BenchServers) -> str:
    return "MERGE" if servers.connection.info.server_version >= MERGE_SINCE else "UPDATE"


def _measure_round(servers: BenchServers, request: FlushRequest, ids: list[str], number: int) -> Round:
    deltas = [(at * 7 + number) % 500 + 1 for at in range(len(ids))]
    merge_sql = {"MERGE": SQL["merge_raw"], "UPDATE": SQL["update_raw"]}[_merge_statement(servers)]
    if len(ids) < FEW_ROWS:
        merge_sql = SQL["analyze_stage"] + ";" + merge_sql
    usages = [ServerUsage.read(servers)]
    upsert = time_raw_write(servers.database_url, ids, deltas, SQL["upsert_raw"])
    usages.append(ServerUsage.read(servers))
    merge = time_raw_write(servers.database_url, ids, deltas, merge_sql)
    usages.append(ServerUsage.read(servers))
    increment_counters(servers.client, ids, deltas, mark_changed=request.mode == "changed")
    usages.append(ServerUsage.read(servers))
    run = run_until_flushed(servers, request, len(ids))
    usages.append(ServerUsage.read(servers))
    of_upsert, of_merge, _, of_run = (later.since(earlier) for earlier, later in pairwise(usages))
    return Round(upsert, of_upsert, merge, of_merge, run, of_run)


def _summarise(
    rounds: list[Round],
    *,
    mode: str,
    merge_statement: str,
    ledger_bytes_per_counter: float,
    totals_bytes_per_counter: float,
    locks_and_double_counts: LocksAndDoubleCounts,
) -> FlushStats:
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
