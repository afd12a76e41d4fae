"""The cost of flushes and of the sensor's scan beside keys that are no counters."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import redis

from viewer_pipeline.bench.bench_servers import BenchServers, bench_servers, increment_counters, make_ids
from viewer_pipeline.bench.complete_run import run_until_flushed
from viewer_pipeline.flush.counter_reader import SCAN_COUNT
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.unannounced_counters import scan_for_unannounced
from viewer_pipeline.settings import MIN_SENSOR_SECONDS

PIPELINE = 20_000
SCAN_CALLS = 10_000
TICKS = 20


@dataclass(frozen=True)
class ScanStats:
    """For how many milliseconds a SCAN call keeps Redis busy, and a tick at the shortest interval of the sensor."""

    median_ms: float
    p99_ms: float
    max_ms: float
    keys_of_tick: int
    percent_of_redis: float  # of its time, from one tick to the next


@dataclass(frozen=True)
class UnrelatedKeysStats:
    """Medians over the runs, in seconds; then what the sensor scans beside the unrelated keys."""

    counters: int
    unrelated_keys: int
    alone: float
    with_unrelated_keys: float
    ratio: float  # with_unrelated_keys / alone
    scan: ScanStats


def bench_unrelated_keys(counters: int, unrelated_keys: int, *, runs: int) -> UnrelatedKeysStats:
    """Flush `counters` announced counters in an empty Redis, then beside `unrelated_keys` unrelated keys."""
    with bench_servers() as servers:
        _median_flush_seconds(servers, counters, 1)  # warm-up
        alone = _median_flush_seconds(servers, counters, runs)
        set_unrelated_keys(servers.client, unrelated_keys)
        with_unrelated_keys = _median_flush_seconds(servers, counters, runs)
        scan = _measure_scan(servers)
    ratio = with_unrelated_keys / alone
    return UnrelatedKeysStats(counters, unrelated_keys, alone, with_unrelated_keys, ratio, scan)


def set_unrelated_keys(client: redis.Redis, number_of_keys: int) -> None:
    """Set keys that are no counters."""
    pipe = client.pipeline(transaction=False)
    for number in range(1, number_of_keys + 1):
        pipe.set(f"vod:session:{number % 5000}:{number}", b"1", ex=86_400)
        if number % PIPELINE == 0:
            pipe.execute()
    pipe.execute()


def _measure_scan(servers: BenchServers) -> ScanStats:
    """Make SCAN calls one after the other, then ticks with the default budget."""
    settings = servers.settings.copy_unvalidated(batch_interval_ms=1000 * MIN_SENSOR_SECONDS)
    store = RedisStore.of(servers.client, settings)
    cursor, milliseconds = 0, list[float]()
    for _ in range(SCAN_CALLS):
        page = store.scan_page(cursor, SCAN_COUNT)
        cursor = page.cursor
        milliseconds.append(page.scan_seconds * 1000)
    keys, before = 0, _microseconds_of_scans(servers.client)
    for _ in range(TICKS):
        scan = scan_for_unannounced(store, cursor, settings.sensor_scan_max_keys, settings.sensor_scan_max_seconds)
        cursor, keys = scan.cursor, keys + scan.keys
    microseconds = (_microseconds_of_scans(servers.client) - before) / TICKS
    p99 = statistics.quantiles(milliseconds, n=100)[-1]
    percent = microseconds / MIN_SENSOR_SECONDS / 1e4
    return ScanStats(statistics.median(milliseconds), p99, max(milliseconds), keys // TICKS, percent)


def _microseconds_of_scans(client: redis.Redis) -> int:
    stats: Any = client.info("commandstats")
    return int(stats["cmdstat_scan"]["usec"])


def _median_flush_seconds(servers: BenchServers, counters: int, runs: int) -> float:
    ids, seconds, request = make_ids(counters), [], FlushRequest("bench", "changed")
    for _ in range(runs):
        increment_counters(servers.client, ids, [3] * counters, mark_changed=True)
        seconds.append(run_until_flushed(servers, request, counters).seconds.flush)
    return statistics.median(seconds)
