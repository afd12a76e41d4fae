"""How far one pipeline goes: many counters, in one stream and in several, on fresh servers each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

from viewer_pipeline.bench.bench_servers import PREFIX, BenchServers, bench_servers
from viewer_pipeline.bench.complete_run import CompleteRun, run_until_flushed
from viewer_pipeline.bench.server_usage import ServerUsage, measure_usage, read_bytes_per_counter
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.stream_change import change_streams
from viewer_pipeline.stores.named_queries import fetch_one, named_queries

SQL = named_queries(__name__)

# Counters that Redis makes by itself: to send ten million commands would take as long as to flush them.
INCREMENT = """
for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
    redis.call('INCRBY', ARGV[1] .. string.format('clx%08dk3j4h5g6f7d8s9', number), number % 500 + 1)
end
"""
PAGE_SIZE = 10_000
PASSES = ("insert", "update")  # the first flush of a VOD makes its total, later ones change it


@dataclass(frozen=True)
class ScaleStats:
    """One flush of all counters in as many runs as it needs, each in a process of its own."""

    counters: int
    streams: int
    totals: str  # insert: of VODs that have no total; update: of VODs that have one
    flush: float  # seconds: drain to settled, of all runs
    complete_run: float  # seconds: with start, verification and the rest
    runs: float
    counters_per_second: int  # of the flush
    process_cpu: float  # seconds, of the processes of the runs
    postgres_cpu: float
    redis_cpu: float
    process_peak_mb: float  # of one process
    redis_peak_mb: float
    wal_bytes_per_counter: float
    ledger_bytes_per_counter: float
    totals_bytes_per_counter: float


def bench_scale(
    request: FlushRequest,
    sizes: Sequence[int],
    streams: Sequence[int],
    on_progress: Callable[[str], None],
    *,
    postgres_settings: Sequence[str] = (),
) -> list[ScaleStats]:
    """Flush each number of counters in each number of streams, twice: first of new VODs, then of the same again.

    `postgres_settings`: each as `name=value`, in place of the defaults.
    """
    stats = list[ScaleStats]()
    for counters in sizes:
        for number in streams:
            on_progress(f"{counters:,} counters, FLUSH_STREAMS={number}")
            stats += _bench(request, counters, number, postgres_settings)
    return stats


def _bench(request: FlushRequest, counters: int, streams: int, postgres_settings: Sequence[str]) -> list[ScaleStats]:
    with bench_servers(streams=streams, postgres_settings=postgres_settings) as servers:
        with Stores.open(servers.settings) as stores:
            change_streams(stores, streams)
        stats = []
        for done, totals in enumerate(PASSES, 1):
            _increment(servers.client, counters)
            servers.wait_for_rewrite()
            run, usage = measure_usage(servers, run_until_flushed, servers, request, counters)
            _require_exact(servers, counters, done)
            stats.append(_stats(servers, run, usage, streams, totals))
            servers.connection.execute("VACUUM ANALYZE viewer.vod_view_counts")
    return stats


def _increment(client: redis.Redis, counters: int) -> None:
    for start in range(0, counters, PAGE_SIZE):
        client.eval(INCREMENT, 0, PREFIX, start, min(start + PAGE_SIZE, counters) - 1)


def _require_exact(servers: BenchServers, counters: int, passes: int) -> None:
    """Check that each view is counted once, and that Redis has none left."""
    expected = passes * sum(number % 500 + 1 for number in range(counters))
    vods, views = fetch_one(servers.connection, SQL["count_totals"])
    left = next((keys for keys in servers.client.scan_iter(f"{PREFIX}*", count=10_000)), None)
    assert (vods, views, left) == (counters, expected, None), f"{vods} VODs, {views} views of {expected}, left {left}"


def _stats(servers: BenchServers, run: CompleteRun, usage: ServerUsage, streams: int, totals: str) -> ScaleStats:
    memory = servers.client.info("memory")
    ledger_bytes, totals_bytes = read_bytes_per_counter(servers)
    seconds = run.seconds
    return ScaleStats(
        counters=run.counters,
        streams=streams,
        totals=totals,
        flush=seconds.flush,
        complete_run=seconds.complete_run,
        runs=run.processes,
        counters_per_second=round(run.counters / seconds.flush),
        process_cpu=run.cpu_seconds,
        postgres_cpu=usage.postgres_cpu_seconds,
        redis_cpu=usage.redis_cpu_seconds,
        process_peak_mb=run.peak_mb,
        redis_peak_mb=memory["used_memory_peak"] / 2**20,
        wal_bytes_per_counter=usage.wal_bytes / run.counters,
        ledger_bytes_per_counter=ledger_bytes,
        totals_bytes_per_counter=totals_bytes,
    )
