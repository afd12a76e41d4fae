"""The impact of a flush on other clients: locked rows, views counted twice, a Redis that is busy with a script."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import psycopg
import redis

from viewer_pipeline.bench.bench_servers import PREFIX, BenchServers, increment_counters
from viewer_pipeline.bench.complete_run import run_until_flushed
from viewer_pipeline.bench.run_costs import percentile
from viewer_pipeline.bench.thread_until_exit import ThreadUntilExit
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.redis_store import SETTLE

RUNS = 3
SETTLING = f"EVALSHA {SETTLE.sha}".encode()

UNLOCKED = "SELECT vod_id FROM viewer.vod_view_counts WHERE vod_id = ANY(%s) FOR UPDATE SKIP LOCKED"
TOTALS = "SELECT vod_id, view_count FROM viewer.vod_view_counts WHERE vod_id = ANY(%s)"


@dataclass(frozen=True)
class LocksAndDoubleCounts:
    """Longest durations within a flush, median over RUNS flushes; and for how long a settling script holds Redis."""

    row_lock_seconds: float  # that a sampled row was locked
    double_count_seconds: float  # that PostgreSQL plus Redis showed more views than were sent
    script_p50_ms: float
    script_p99_ms: float
    script_max_ms: float


def measure_locks_and_double_counts(
    servers: BenchServers, request: FlushRequest, ids: list[str]
) -> LocksAndDoubleCounts:
    """Flush RUNS times while two threads sample the first and last rows of each transaction."""
    step = request.flush_max_counters
    sampled = [ids[at] for at in range(0, len(ids), step)] + [
        ids[min(at + step, len(ids)) - 1] for at in range(0, len(ids), step)
    ]
    locked, double_counted, scripts = [], [], list[float]()
    for _ in range(RUNS):
        increment_counters(servers.client, ids, [3] * len(ids), mark_changed=request.mode == "changed")
        totals_before = _read_totals(servers, sampled)
        servers.client.config_set("slowlog-max-len", 1_000_000)
        servers.client.config_set("slowlog-log-slower-than", 0)
        servers.client.slowlog_reset()
        lock_sampler = _VodStateDurationSampler(partial(_find_locked_ids, ids=sampled), servers)
        double_count_sampler = _VodStateDurationSampler(
            partial(_find_double_counted_ids, totals_before=totals_before), servers
        )
        with lock_sampler, double_count_sampler:
            run_until_flushed(servers, request, len(ids))
        servers.client.config_set("slowlog-log-slower-than", -1)
        locked.append(lock_sampler.longest_seconds())
        double_counted.append(double_count_sampler.longest_seconds())
        scripts += [
            entry["duration"] / 1000
            for entry in servers.client.slowlog_get(1_000_000)
            if entry["command"].startswith(SETTLING)
        ]
    return LocksAndDoubleCounts(
        statistics.median(locked),
        statistics.median(double_counted),
        percentile(scripts, 0.5),
        percentile(scripts, 0.99),
        max(scripts),
    )


def _read_totals(servers: BenchServers, ids: list[str]) -> dict[str, int]:
    with psycopg.connect(servers.database_url) as connection:
        return dict.fromkeys(ids, 0) | dict(connection.execute(TOTALS, [ids]).fetchall())


def _find_locked_ids(connection: psycopg.Connection, _client: redis.Redis, ids: list[str]) -> set[str]:
    existing = {row[0] for row in connection.execute(TOTALS, [ids])}
    return existing - {row[0] for row in connection.execute(UNLOCKED, [ids])}


def _find_double_counted_ids(
    connection: psycopg.Connection, client: redis.Redis, totals_before: dict[str, int]
) -> set[str]:
    # PostgreSQL first: a flush between the two reads makes the sum too low, so none is too high but by views in both.
    now: dict[str, int] = dict(connection.execute(TOTALS, [list(totals_before)]).fetchall())
    counters = client.mget([PREFIX + vod_id for vod_id in totals_before])
    pending = {vod_id: int(value or 0) for vod_id, value in zip(totals_before, counters, strict=True)}
    return {vod_id for vod_id, total in totals_before.items() if now.get(vod_id, 0) + pending[vod_id] > total + 3}


class _VodStateDurationSampler(ThreadUntilExit):
    """Reads repeatedly which ids are in a state, and keeps the longest duration of that state."""

    def __init__(self, read: Callable[[psycopg.Connection, redis.Redis], set[str]], servers: BenchServers) -> None:
        super().__init__()
        self._read, self._servers = read, servers
        self._since: dict[str, float] = {}
        self._longest = 0.0

    def longest_seconds(self) -> float:
        """Return the longest duration in seconds, from the last sample before to the first sample after."""
        return self._longest

    def run_until_stopped(self) -> None:
        with psycopg.connect(self._servers.database_url, autocommit=True) as connection:
            previous = time.perf_counter()
            while not self.stop.is_set():
                started = time.perf_counter()
                current = self._read(connection, self._servers.client)
                for vod_id in current - self._since.keys():
                    self._since[vod_id] = previous
                for vod_id in self._since.keys() - current:
                    self._longest = max(self._longest, started - self._since.pop(vod_id))
                previous = started
