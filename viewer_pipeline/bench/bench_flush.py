"""A flush and the complete run around it, beside the same rows written by PostgreSQL alone."""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import replace

from viewer_pipeline.bench.bench_servers import BenchServers, bench_servers, increment_counters, make_ids
from viewer_pipeline.bench.bench_unrelated_keys import set_unrelated_keys
from viewer_pipeline.bench.complete_run import run_until_flushed
from viewer_pipeline.bench.flush_stats import FlushStats, Round, summarise
from viewer_pipeline.bench.new_process import Call, call_in_new_process, kept_process
from viewer_pipeline.bench.raw_write import time_raw_write
from viewer_pipeline.bench.row_lock_and_double_count_times import measure_locks_and_double_counts
from viewer_pipeline.bench.server_usage import measure_usage, read_bytes_per_counter
from viewer_pipeline.bench.totals_subscriber import TotalsSubscriber
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.transaction import MERGE_VERSION
from viewer_pipeline.stores.named_queries import named_queries

SQL = named_queries(__name__)

MANY_COUNTERS = 1_000_000  # from here on, MANY_COUNTERS_RUNS are enough
MANY_COUNTERS_RUNS = 2
OBSERVED_COUNTERS = (
    100_000  # at most, in the flushes that are observed by other clients; more transactions change nothing
)
OTHERS = 100_000  # VODs with totals, and keys that are no counters, beside those of the mode `changed`
FEW_ROWS = 1_000  # of an unknown table: PostgreSQL assumes more, and would read all totals instead of those of the rows


def bench_flush(request: FlushRequest, counters: int, *, runs: int, keep_process: bool = False) -> FlushStats:
    """Flush `counters` counters of VODs that have totals, `runs` times, each time beside both references.

    Mode `changed`: they are announced, and among OTHERS VODs with totals and as many unrelated keys. `keep_process`:
    measure runs in a process that has run before, instead of a new one for each, as in production.
    """
    changed = request.mode == "changed"
    ids = make_ids(counters + OTHERS * changed)
    flushed_ids = sorted(random.Random(7).sample(ids, counters)) if changed else ids  # noqa: S311 - the same each time
    with (
        bench_servers() as servers,
        TotalsSubscriber(servers.client, servers.settings.totals_channel) as subscriber,
        kept_process() if keep_process else nullcontext(call_in_new_process) as call,
    ):
        _create_totals(servers, replace(request, mode="sweep"), ids, call)
        subscriber.wait_for(len(ids))
        set_unrelated_keys(servers.client, OTHERS * changed)
        rounds = list[Round]()
        for number in range(runs if counters < MANY_COUNTERS else min(runs, MANY_COUNTERS_RUNS)):
            rounds.append(_measure_round(servers, request, flushed_ids, number, call))
            subscriber.wait_for(counters)
        ledger_bytes, totals_bytes = read_bytes_per_counter(servers)
        locks = measure_locks_and_double_counts(servers, request, flushed_ids[:OBSERVED_COUNTERS])
        merge_statement = _merge_statement(servers)
    return summarise(
        rounds,
        mode=request.mode,
        merge_statement=merge_statement,
        ledger_bytes_per_counter=ledger_bytes,
        totals_bytes_per_counter=totals_bytes,
        locks_and_double_counts=locks,
    )


def _create_totals(servers: BenchServers, request: FlushRequest, ids: list[str], call: Call) -> None:
    """Flush a first time, and write the same rows to the tables of the references."""
    ones = [1] * len(ids)
    servers.connection.execute(SQL["create_raw_upserted"])
    time_raw_write(servers.database_url, ids, ones, SQL["upsert_raw"])
    servers.connection.execute(SQL["create_raw_merged"])
    increment_counters(servers.client, ids, ones)
    run_until_flushed(servers, request, len(ids), call)
    servers.connection.execute("VACUUM ANALYZE viewer.vod_view_counts, raw_upserted, raw_merged")


def _merge_statement(servers: BenchServers) -> str:
    return "MERGE" if servers.connection.info.server_version >= MERGE_VERSION else "UPDATE"


def _measure_round(servers: BenchServers, request: FlushRequest, ids: list[str], number: int, call: Call) -> Round:
    deltas = [(at * 7 + number) % 500 + 1 for at in range(len(ids))]
    merge_sql = {"MERGE": SQL["merge_raw"], "UPDATE": SQL["update_raw"]}[_merge_statement(servers)]
    if len(ids) < FEW_ROWS:
        merge_sql = SQL["analyze_stage"] + ";" + merge_sql
    upsert = measure_usage(servers, time_raw_write, servers.database_url, ids, deltas, SQL["upsert_raw"])
    merge = measure_usage(servers, time_raw_write, servers.database_url, ids, deltas, merge_sql)
    increment_counters(servers.client, ids, deltas, mark_changed=request.mode == "changed")
    servers.wait_for_rewrite()
    run = measure_usage(servers, run_until_flushed, servers, request, len(ids), call)
    return Round(*upsert, *merge, *run)
