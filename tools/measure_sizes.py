"""Measure what a counter, a flush, a total and a daily view take on disk and in Redis: `python -m tools.measure_sizes`.

The table in docs/sizing.md is from here. Ids are as long as a cuid. It takes a minute, on temporary servers.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import psycopg
import redis

from viewer_pipeline.bench.bench_servers import BenchServers, bench_servers, increment_counters, make_ids
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.named_queries import fetch_one

VODS = 100_000
COUNTERS_AND_FLUSHES = ((10, 500), (100, 200), (1_000, 50), (10_000, 10))
LEDGER = ("viewer.flush", "viewer.flush_batch")
DAILY_VIEWS = """
    INSERT INTO viewer.daily_views (day, vod_id, views)
    SELECT current_date - d, vod_id, 1 + d FROM viewer.vod_view_counts CROSS JOIN generate_series(0, 9) AS d
"""


def print_line(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")


def read_table_bytes(connection: psycopg.Connection, tables: Sequence[str]) -> int:
    """Return the size of tables with their indexes."""
    total = "SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(%(tables)s::text[]) AS name"
    return int(fetch_one(connection, total, tables=list(tables))[0])


def read_redis_bytes(client: redis.Redis) -> int:
    """Return what all keys take, with what Redis needs to find them."""
    return int(client.info("memory")["used_memory_dataset"]) + int(client.info("memory")["used_memory_overhead"])


def flush_everything(stores: Stores, number: int) -> None:
    """Run one flush of all counters."""
    snapshot = drain(stores, FlushRequest(f"run {number}"))
    bulk_upsert(stores, snapshot, aggregate(snapshot.readings))


def measure_ledger(servers: BenchServers, stores: Stores, ids: list[str]) -> None:
    """Print the growth of the ledger, for several numbers of counters in a flush."""
    choice = random.Random(1)  # the same VODs in each measurement
    for counters, flushes in COUNTERS_AND_FLUSHES:
        before = read_table_bytes(servers.connection, LEDGER)
        for number in range(flushes):
            viewed = choice.sample(ids, counters)
            increment_counters(servers.client, viewed, [1 + choice.randrange(3) for _ in viewed])
            flush_everything(stores, number)
        grown = (read_table_bytes(servers.connection, LEDGER) - before) / flushes
        print_line(f"ledger: {grown:,.0f} bytes for a flush of {counters} counters, {grown / counters:.0f} for each")


def main() -> None:
    """Measure all of them."""
    ids = make_ids(VODS)
    with bench_servers() as servers, Stores.open(servers.settings) as stores:
        empty = read_redis_bytes(servers.client)
        increment_counters(servers.client, ids, [1] * VODS)
        counted = read_redis_bytes(servers.client)
        servers.client.zadd("viewer:changed", dict.fromkeys(ids, 1))
        announced = read_redis_bytes(servers.client)
        print_line(f"Redis: {(counted - empty) / VODS:.0f} bytes for a counter with views that are not persisted")
        print_line(f"Redis: {(announced - counted) / VODS:.0f} more if it was announced")
        flush_everything(stores, 0)
        totals = read_table_bytes(servers.connection, ["viewer.vod_view_counts"])
        print_line(f"totals: {totals / VODS:.0f} bytes for a VOD")
        measure_ledger(servers, stores, ids)
        servers.connection.execute(DAILY_VIEWS)
        daily = read_table_bytes(servers.connection, ["viewer.daily_views"])
        print_line(f"daily views: {daily / VODS / 10:.0f} bytes for a VOD that was viewed on a day")


if __name__ == "__main__":
    main()
