"""Servers, counters and one flush in a process of its own, for every benchmark."""

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
from typing import LiteralString

import psycopg
import redis

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.request import Request
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.stack.ports import free_port
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.target.table import TargetNames

PREFIX = "vod:views:"
RAW_STAGE = "CREATE TEMP TABLE stage (vod_id text, delta bigint) ON COMMIT DROP"
RAW_COPY = "COPY stage (vod_id, delta) FROM STDIN (FORMAT BINARY)"


@dataclass(frozen=True)
class Seconds:
    """One flush, drain to settled. `settle` runs beside `upsert`."""

    flush: float
    drain: float
    aggregate: float
    upsert: float
    settle: float
    peak_mb: float  # of the flushing process, since it started


@dataclass(frozen=True)
class Rig:
    """Two servers with their default, durable settings, and a process that flushes."""

    database_url: str
    redis_url: str
    client: redis.Redis
    process: ProcessPoolExecutor
    target: TargetNames | None = None

    def flush(self, request: Request) -> Seconds:
        """Run one flush in the other process, and wait for it."""
        return self.process.submit(flush_once, self.database_url, self.redis_url, request, self.target).result()


@contextmanager
def rig(target: TargetNames | None = None) -> Iterator[Rig]:
    """Start the servers in a throw-away directory."""
    spawn = multiprocessing.get_context("spawn")
    with TemporaryDirectory(prefix="viewer-bench-") as home, ProcessPoolExecutor(1, spawn) as process:
        postgres, server = PostgresServer(Path(home), port=free_port()), RedisServer(Path(home), port=free_port())
        try:
            postgres.start()
            server.start()
            migrate(postgres.url, with_dagster=False)
            with connect(server.url) as client:
                yield Rig(postgres.url, server.url, client, process, target)
        finally:
            server.stop()
            postgres.stop()


def flush_once(database_url: str, redis_url: str, request: Request, target: TargetNames | None = None) -> Seconds:
    """Flush once and say how long each step took."""
    with connect(redis_url) as client:
        stores = Stores(RedisStore(client, redis_url, PREFIX), Ledger(database_url, target))
        started = time.perf_counter()
        snapshot = drain(stores, request)
        drained = time.perf_counter()
        aggregated = aggregate(snapshot.readings)
        ready = time.perf_counter()
        done = bulk_upsert(stores, snapshot, aggregated)
        ended = time.perf_counter()
    return Seconds(
        ended - started, drained - started, ready - drained, done.upsert_seconds, done.settle_seconds, peak_mb()
    )


def write_raw(servers: Rig, ids: list[str], deltas: list[int], statement: LiteralString) -> float:
    """Write the rows with PostgreSQL alone: binary COPY into the table `stage`, then one statement that reads it.

    Returns the seconds it took, without the connection.
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


def peak_mb() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def ids_of(counters: int) -> list[str]:
    """Return ids as long as a cuid, in order."""
    return [f"clx{number:08d}k3j4h5g6f7d8s9" for number in range(counters)]


def fill(client: redis.Redis, ids: list[str], deltas: list[int], *, announce: bool = False) -> None:
    """Make the counters, and with `announce` their entries in the changed set."""
    pipe = client.pipeline(transaction=False)
    for number, (vod_id, delta) in enumerate(zip(ids, deltas, strict=True), 1):
        pipe.incrby(PREFIX + vod_id, delta)
        if announce:
            pipe.zadd("viewer:changed", {vod_id: 1})
        if number % 5000 == 0:
            pipe.execute()
    pipe.execute()
