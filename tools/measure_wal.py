"""Measure the write-ahead log of flushes that view a small part of many VODs: `python -m tools.measure_wal`.

After a checkpoint, the first change of each page is logged with the whole page. If few VODs of a large table are viewed
in an interval, most changes are such first ones, so a counter takes far more than where all VODs are viewed. Numbers
of docs/sizing.md are from here. It takes a minute for each compression, on temporary servers.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from itertools import product

from tools.measure_sizes import flush_everything
from viewer_pipeline.bench.bench_servers import BenchServers, bench_servers, increment_counters, make_ids
from viewer_pipeline.bench.bench_target import create_filled_table
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.named_queries import fetch_one

VODS = 200_000
FLUSHES = 10  # between two checkpoints: five minutes, PostgreSQL's default, with a flush every 30 s
CHECKPOINTS = 2
RELOAD_SECONDS = 30


def read_wal_bytes(servers: BenchServers) -> int:
    """Return the size of the write-ahead log since the cluster was created."""
    return int(fetch_one(servers.connection, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0])


def set_wal_compression(servers: BenchServers, method: str) -> None:
    """Set how all connections compress whole pages: off, pglz, lz4 or zstd, as far as the server was built with it."""
    servers.connection.execute(f"ALTER SYSTEM SET wal_compression = {method}")
    servers.connection.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + RELOAD_SECONDS
    while fetch_one(servers.connection, "SHOW wal_compression")[0] != method:
        if time.monotonic() > deadline:
            raise SystemExit(f"wal_compression is not {method} after {RELOAD_SECONDS} s")
        time.sleep(0.05)


def measure(servers: BenchServers, stores: Stores, ids: list[str], counters: int, flushes: int) -> float:
    """Return the bytes of write-ahead log of a flush: the mean of several, with a checkpoint before every `flushes`."""
    choice = random.Random(counters)  # the same VODs each time
    total = 0
    for _ in range(CHECKPOINTS):
        servers.connection.execute("CHECKPOINT")
        before = read_wal_bytes(servers)
        for number in range(flushes):
            viewed = sorted(choice.sample(ids, counters))
            increment_counters(servers.client, viewed, [1] * counters)
            flush_everything(stores, number)
        total += read_wal_bytes(servers) - before
    return total / CHECKPOINTS / flushes


def main() -> None:
    """Measure with and without a table of the user's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counters", type=int, nargs="*", default=[7_000, 350], help="of a flush")
    parser.add_argument("--flushes", type=int, default=FLUSHES, help="between two checkpoints")
    parser.add_argument("--compression", nargs="+", default=["off"], metavar="METHOD", help="values of wal_compression")
    options = parser.parse_args()
    ids = make_ids(VODS)
    for with_table in (False, True):
        with bench_servers(set_target_table=with_table) as servers, Stores.open(servers.settings) as stores:
            if with_table:
                create_filled_table(servers, ids)
            increment_counters(servers.client, ids, [1] * VODS)
            flush_everything(stores, 0)
            for counters, method in product(options.counters, options.compression):
                set_wal_compression(servers, method)
                flush = measure(servers, stores, ids, counters, options.flushes)
                sys.stdout.write(
                    f"{'with' if with_table else 'without'} a table, {VODS:,} VODs, {counters:,} counters,"
                    f" wal_compression {method}: {flush / 1e6:.1f} MB for a flush,"
                    f" {flush / counters:,.0f} bytes for each counter\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
