"""What all programs share: addresses, names in Redis, and the statement that adds views to the totals.

All write in the fastest way that is portable between libraries: one statement for all counters, with arrays as
parameters, sorted by id so that two of them cannot deadlock.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import psycopg
import redis

PREFIX = "vod:views:"
STREAM = "view_events"  # entries have one field, VOD_FIELD; each is one view
VOD_FIELD = "vod_id"
FLUSH_COUNTERS = 10_000  # in one transaction, as ours
PIPELINE_KEYS = 1_000  # commands in one request to Redis

ADD_TO_TOTALS = """
    INSERT INTO vod_totals AS t (vod_id, views)
    SELECT vod_id, views FROM unnest(%(vod_ids)s::text[], %(views)s::bigint[]) AS new (vod_id, views) ORDER BY vod_id
    ON CONFLICT (vod_id) DO UPDATE SET views = t.views + excluded.views
"""
# With a foreign key: a VOD that does not exist must not refuse the statement.
ADD_TO_TOTALS_OF_EXISTING = """
    INSERT INTO vod_totals AS t (vod_id, views)
    SELECT new.vod_id, new.views FROM unnest(%(vod_ids)s::text[], %(views)s::bigint[]) AS new (vod_id, views)
    JOIN vod ON vod.id = new.vod_id ORDER BY new.vod_id
    ON CONFLICT (vod_id) DO UPDATE SET views = t.views + excluded.views
"""


def database_url() -> str:
    """Return the URL of PostgreSQL."""
    return os.environ["DATABASE_URL"]


def redis_url() -> str:
    """Return the URL of Redis."""
    return os.environ["REDIS_URL"]


def interval_seconds() -> float:
    """Return the seconds from one flush to the next."""
    return float(os.environ["PEER_INTERVAL"])


def add_to_totals_statement() -> str:
    """Return the statement for the tables of this run."""
    return ADD_TO_TOTALS_OF_EXISTING if os.environ.get("PEER_FOREIGN_KEY") else ADD_TO_TOTALS


def statement_parameters(views: Mapping[str, int]) -> dict[str, list[str] | list[int]]:
    """Return the parameters of the statement, sorted by id."""
    vod_ids = sorted(views)
    return {"vod_ids": vod_ids, "views": [views[vod_id] for vod_id in vod_ids]}


def add_to_totals(connection: psycopg.Connection, views: Mapping[str, int]) -> None:
    """Add the views in one transaction."""
    with connection.transaction():
        connection.execute(add_to_totals_statement().encode(), statement_parameters(views))


def scan_keys(client: redis.Redis, prefix: str = PREFIX) -> list[str]:
    """Return the keys that begin with `prefix`, each once; SCAN may return one twice."""
    keys = client.scan_iter(f"{prefix}*", count=PIPELINE_KEYS)
    return list(dict.fromkeys(key.decode() for key in keys))


def in_chunks(keys: Sequence[str], size: int) -> Iterator[list[str]]:
    """Yield the keys in lists of at most `size`."""
    remaining = iter(keys)
    while chunk := list(islice(remaining, size)):
        yield chunk


def report_flush(counters: int, started: float, verification_seconds: float = 0.0) -> None:
    """Print how long a flush took that began at `started` (perf_counter), and its verification, if it has one."""
    if counters:
        seconds = time.perf_counter() - started
        values = {"counters": counters, "seconds": seconds, "verification_seconds": verification_seconds}
        print(json.dumps(values), flush=True)


def flush_periodically(flush: Callable[[redis.Redis, psycopg.Connection], int]) -> None:
    """Flush at every interval, on new connections after an error. `flush` returns the number of counters."""
    while True:
        try:
            with redis.Redis.from_url(redis_url()) as client, psycopg.connect(database_url()) as connection:
                while True:
                    started = time.perf_counter()
                    report_flush(flush(client, connection), started)
                    time.sleep(max(0.0, interval_seconds() - (time.perf_counter() - started)))
        except (redis.RedisError, psycopg.Error) as error:
            print(f"flush failed: {error}", flush=True)
            time.sleep(interval_seconds())
