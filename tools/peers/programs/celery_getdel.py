"""Celery: beat sends a task at every interval; the task takes the counters by GETDEL and upserts them.

As Celery's documentation recommends for a periodic task with Redis as broker: beat is a process of its own, of which
one runs; `acks_late` and `task_reject_on_worker_lost`, so that the task of a killed worker is delivered again; one task
at a time; `expires`, so that tasks do not pile up. If PostgreSQL refuses the write, the views are put back. It
is good at running many kinds of tasks on many machines.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import psycopg
import redis
from celery import Celery

from tools.peers.programs.servers_and_totals import (
    FLUSH_COUNTERS,
    PIPELINE_KEYS,
    PREFIX,
    add_to_totals,
    database_url,
    in_chunks,
    interval_seconds,
    redis_url,
    report_flush,
    scan_keys,
)

APP = "tools.peers.programs.celery_getdel"

# Another database than the counters'. Its replies are not lost: then the worker may stop for other reasons.
app = Celery("views", broker=os.environ.get("PEER_BROKER_URL", redis_url()).removesuffix("/0") + "/1")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_concurrency=1,
    worker_prefetch_multiplier=1,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 60},
    beat_schedule={
        "flush": {"task": "flush", "schedule": interval_seconds(), "options": {"expires": interval_seconds()}}
    },
)


@app.task(name="flush", autoretry_for=(redis.RedisError, psycopg.Error), retry_backoff=True, max_retries=5)
def flush() -> None:
    """Move all counters."""
    started, flushed = time.perf_counter(), 0
    with redis.Redis.from_url(redis_url()) as client, psycopg.connect(database_url()) as connection:
        for keys in in_chunks(scan_keys(client), FLUSH_COUNTERS):
            views = take(client, keys)
            try:
                add_to_totals(connection, views)
            except psycopg.Error:
                put_back(client, views)
                raise
            flushed += len(views)
    report_flush(flushed, started)


def take(client: redis.Redis, keys: list[str]) -> dict[str, int]:
    """Read and delete counters."""
    values = list(chain.from_iterable(getdel(client, some_keys) for some_keys in in_chunks(keys, PIPELINE_KEYS)))
    return {key.removeprefix(PREFIX): int(value) for key, value in zip(keys, values, strict=True) if value}


def getdel(client: redis.Redis, keys: list[str]) -> list[bytes | None]:
    """Send GETDEL for each key in one request."""
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.getdel(key)
    return list(pipe.execute())


def put_back(client: redis.Redis, views: dict[str, int]) -> None:
    """Add the views to the counters again."""
    pipe = client.pipeline(transaction=False)
    for vod_id, count in views.items():
        pipe.incrby(PREFIX + vod_id, count)
    pipe.execute()


def main() -> None:
    """Run beat and a worker until one of them ends."""
    home = Path(os.environ["PEER_HOME"])
    celery = [sys.executable, "-m", "celery", "-A", APP]
    beat = subprocess.Popen([*celery, "beat", "--schedule", str(home / "beat"), "--pidfile="])
    worker = subprocess.Popen([*celery, "worker", "--without-mingle", "--without-gossip"])
    while beat.poll() is None and worker.poll() is None:
        time.sleep(0.1)
    sys.exit(1)


if __name__ == "__main__":
    main()
