"""What others feel of a flush: locked rows, doubled values, a Redis that is busy with a script."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import psycopg
import redis

from viewer_pipeline.bench.rig import PREFIX, Rig, fill
from viewer_pipeline.flush.request import Request

RUNS = 3

UNLOCKED = "SELECT vod_id FROM viewer.vod_view_counts WHERE vod_id = ANY(%s) FOR UPDATE SKIP LOCKED"
TOTALS = "SELECT vod_id, view_count FROM viewer.vod_view_counts WHERE vod_id = ANY(%s)"


@dataclass(frozen=True)
class Watched:
    """Longest times within a flush, median over RUNS flushes."""

    locked: float  # seconds that a sampled row was locked
    doubled: float  # seconds that PostgreSQL plus Redis showed more views than were sent
    script_ms: float  # median time that a settling script held Redis
    script_max_ms: float


def watch(servers: Rig, request: Request, ids: list[str]) -> Watched:
    """Flush RUNS times while two threads sample the first and last rows of each transaction."""
    step = request.flush_max_counters
    sampled = [ids[at] for at in range(0, len(ids), step)] + [
        ids[min(at + step, len(ids)) - 1] for at in range(0, len(ids), step)
    ]
    locked, doubled, scripts = [], [], list[float]()
    for _ in range(RUNS):
        fill(servers.client, ids, [3] * len(ids))
        before = _totals(servers, sampled)
        servers.client.config_set("slowlog-max-len", 1_000_000)
        servers.client.config_set("slowlog-log-slower-than", 0)
        servers.client.slowlog_reset()
        locks = _Sampler(partial(_locked, ids=sampled), servers)
        doubles = _Sampler(partial(_doubled, before=before), servers)
        with locks, doubles:
            servers.flush(request)
        servers.client.config_set("slowlog-log-slower-than", -1)
        locked.append(locks.longest())
        doubled.append(doubles.longest())
        scripts += [
            entry["duration"] / 1000
            for entry in servers.client.slowlog_get(1_000_000)
            if entry["command"].startswith(b"EVALSHA")
        ]
    return Watched(statistics.median(locked), statistics.median(doubled), statistics.median(scripts), max(scripts))


def _totals(servers: Rig, ids: list[str]) -> dict[str, int]:
    with psycopg.connect(servers.database_url) as connection:
        return dict.fromkeys(ids, 0) | dict(connection.execute(TOTALS, [ids]).fetchall())


def _locked(connection: psycopg.Connection, _client: redis.Redis, ids: list[str]) -> set[str]:
    known = {row[0] for row in connection.execute(TOTALS, [ids])}
    return known - {row[0] for row in connection.execute(UNLOCKED, [ids])}


def _doubled(connection: psycopg.Connection, client: redis.Redis, before: dict[str, int]) -> set[str]:
    # PostgreSQL first, as a web application that adds the two does: then it never sees fewer views than there are.
    now: dict[str, int] = dict(connection.execute(TOTALS, [list(before)]).fetchall())
    counters = client.mget([PREFIX + vod_id for vod_id in before])
    pending = {vod_id: int(value or 0) for vod_id, value in zip(before, counters, strict=True)}
    return {vod_id for vod_id, total in before.items() if now.get(vod_id, 0) + pending[vod_id] > total + 3}


class _Sampler:
    """Asks again and again which ids are in a state, and keeps the longest time that one of them was."""

    def __init__(self, ask: Callable[[psycopg.Connection, redis.Redis], set[str]], servers: Rig) -> None:
        self._ask, self._servers = ask, servers
        self._since: dict[str, float] = {}
        self._longest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def longest(self) -> float:
        """Return the longest time, in seconds, from the last look before to the first look after."""
        return self._longest

    def _sample(self) -> None:
        with psycopg.connect(self._servers.database_url, autocommit=True) as connection:
            last_look = time.perf_counter()
            while not self._stop.is_set():
                look = time.perf_counter()
                now = self._ask(connection, self._servers.client)
                for vod_id in now - self._since.keys():
                    self._since[vod_id] = last_look
                for vod_id in self._since.keys() - now:
                    self._longest = max(self._longest, look - self._since.pop(vod_id))
                last_look = look
