"""Servers, counters, and a flush in another process, for all benchmarks."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import redis

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.redis_names import DEFAULT_PREFIX
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.redis import connect

PREFIX = DEFAULT_PREFIX
RAW_STAGE = "CREATE TEMP TABLE stage (vod_id text, delta bigint) ON COMMIT DROP"
RAW_COPY = "COPY stage (vod_id, delta) FROM STDIN (FORMAT BINARY)"


@dataclass(frozen=True)
class StepSeconds:
    """Durations of a flush and its steps, drain to settled. `settle` runs beside `upsert`."""

    flush: float
    drain: float
    aggregate: float
    upsert: float
    settle: float
    peak_mb: float  # of the flushing process, since it started


@dataclass(frozen=True)
class BenchServers:
    """Two servers with their default, durable settings, and a process that flushes."""

    settings: Settings
    client: redis.Redis
    process: ProcessPoolExecutor

    @property
    def database_url(self) -> str:
        """URL of the database."""
        return self.settings.require_database_url()

    def flush_in_other_process(self, request: FlushRequest) -> StepSeconds:
        """Run a flush in the other process, and wait for it."""
        return self.process.submit(time_flush_steps, self.settings, request).result()


@contextmanager
def bench_servers(*, set_target_table: bool = False) -> Iterator[BenchServers]:
    """Start the servers in a temporary directory; `set_target_table`: the settings name the table of bench_target."""
    spawn = multiprocessing.get_context("spawn")
    with TemporaryDirectory(prefix="viewer-bench-") as home, ProcessPoolExecutor(1, spawn) as process:
        postgres, server = (
            PostgresServer(Path(home), port=find_free_port()),
            RedisServer(Path(home), port=find_free_port()),
        )
        try:
            postgres.start()
            server.start()
            migrate(postgres.url, with_dagster=False)
            settings = _settings_for(postgres.url, server.url, set_target_table=set_target_table)
            with connect(server.url) as client:
                yield BenchServers(settings, client, process)
        finally:
            server.stop()
            postgres.stop()


def _settings_for(database_url: str, redis_url: str, *, set_target_table: bool) -> Settings:
    """Return settings for these servers, whatever the environment says of others."""
    return Settings(
        _env_file=None,
        database_url=database_url,
        redis_url=redis_url,
        counter_prefix=PREFIX,
        redis_wait_replicas=0,
        redis_wait_aof=0,
        target_table="public.Vod" if set_target_table else None,
        target_id_column="id",
        target_count_column="viewCount",
    )


def time_flush_steps(settings: Settings, request: FlushRequest) -> StepSeconds:
    """Flush once; return the duration of each step."""
    with Stores.open(settings) as stores:
        started = time.perf_counter()
        snapshot = drain(stores, request)
        drained = time.perf_counter()
        aggregated = aggregate(snapshot.readings)
        ready = time.perf_counter()
        result = bulk_upsert(stores, snapshot, aggregated)
        ended = time.perf_counter()
    return StepSeconds(
        ended - started,
        drained - started,
        ready - drained,
        result.upsert_seconds,
        result.settle_seconds,
        read_peak_mb(),
    )


def time_raw_write(servers: BenchServers, ids: list[str], deltas: list[int], statement: str) -> float:
    """Write the rows with PostgreSQL alone: binary COPY into the table `stage`, then one statement that reads it.

    Returns the duration without that of the connection.
    """
    with psycopg.connect(servers.database_url) as connection:
        started = time.perf_counter()
        connection.execute(RAW_STAGE)
        with connection.cursor() as cursor, cursor.copy(RAW_COPY) as copy:
            copy.set_types(["text", "int8"])
            for row in zip(ids, deltas, strict=True):
                copy.write_row(row)
        connection.execute(statement)
        connection.commit()
        return time.perf_counter() - started


def read_peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def make_ids(counters: int) -> list[str]:
    """Return ids as long as a cuid, in order."""
    return [f"clx{number:08d}k3j4h5g6f7d8s9" for number in range(counters)]


def increment_counters(client: redis.Redis, ids: list[str], deltas: list[int], *, mark_changed: bool = False) -> None:
    """Increment the counters; with `mark_changed` also add them to the changed set."""
    pipe = client.pipeline(transaction=False)
    for number, (vod_id, delta) in enumerate(zip(ids, deltas, strict=True), 1):
        pipe.incrby(PREFIX + vod_id, delta)
        if mark_changed:
            pipe.zadd("viewer:changed", {vod_id: 1})
        if number % 5000 == 0:
            pipe.execute()
    pipe.execute()
