"""Servers and counters, for all benchmarks."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import redis

from viewer_pipeline.errors import EmbeddedServerError
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.redis_names import DEFAULT_PREFIX
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.redis import connect

PREFIX = DEFAULT_PREFIX
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class BenchServers:
    """Two servers with their default, durable settings, and a connection to each, which is kept."""

    settings: Settings
    client: redis.Redis
    connection: psycopg.Connection  # in autocommit mode
    postgres_pid: int  # of the parent of its processes

    @property
    def database_url(self) -> str:
        """URL of the database."""
        return self.settings.require_database_url()

    def wait_for_rewrite(self) -> None:
        """Wait until Redis rewrites its append-only file no more: what was written before must not be measured."""
        while self.client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(POLL_SECONDS)


@contextmanager
def bench_servers(
    *, set_target_table: bool = False, streams: int = 1, postgres_settings: Sequence[str] = ()
) -> Iterator[BenchServers]:
    """Start the servers in a temporary directory.

    `set_target_table`: the settings name the table of bench_target. `streams`: FLUSH_STREAMS. `postgres_settings`: each
    as `name=value`.
    """
    with TemporaryDirectory(prefix="viewer-bench-") as home:
        postgres, server = (
            PostgresServer(Path(home), port=find_free_port(), settings=postgres_settings),
            RedisServer(Path(home), port=find_free_port()),
        )
        try:
            _start(postgres, postgres_settings)
            _start(server)
            migrate(postgres.url, with_dagster=False)
            settings = _settings_for(postgres.url, server.url, set_target_table=set_target_table, streams=streams)
            with connect(server.url) as client, psycopg.connect(postgres.url, autocommit=True) as connection:
                yield BenchServers(settings, client, connection, postgres.process.reaper_pid)
        finally:
            server.stop()
            postgres.stop()


def _start(server: PostgresServer | RedisServer, settings: Sequence[str] = ()) -> None:
    try:
        server.start()
    except EmbeddedServerError as error:  # it has the end of the log, which is removed with the directory
        error.remedy = f"check {', '.join(settings)}" if settings else ""
        raise


def _settings_for(database_url: str, redis_url: str, *, set_target_table: bool, streams: int) -> Settings:
    """Return settings for these servers, whatever the environment says of others."""
    return Settings(
        _env_file=None,
        database_url=database_url,
        redis_url=redis_url,
        counter_prefix=PREFIX,
        flush_streams=streams,
        redis_wait_replicas=0,
        redis_wait_aof=0,
        postgres_wait_standbys=0,
        target_table="public.Vod" if set_target_table else None,
        target_id_column="id",
        target_count_column="viewCount",
    )


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
