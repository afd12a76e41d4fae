"""Measure a flush of a Redis Cluster of three primaries, in turn with one of a single Redis: `make cluster-bench`.

All servers run on this machine, and share its cores with the flush. Prints the median of each, and of the ratio of
each pair.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import median
from typing import NamedTuple
from uuid import uuid4

import psycopg
import redis

from tools.throw_away_postgres import throw_away_postgres
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.layout import key_slot
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.failover import started

PREFIX = "vod:views:"
VIEWS = 3  # of each counter
PAGE = 5_000


class Seconds(NamedTuple):
    """What a flush took: elapsed, until all was read, and of the CPU of this process."""

    elapsed: float
    drain: float
    cpu: float


class Subject(NamedTuple):
    """A Redis with its ledger, and how its counters are written."""

    stores: Stores
    fill: Callable[[], None]


def measure(subject: Subject, counters: int, flush_max_counters: int = 10_000) -> Seconds:
    """Flush all counters once."""
    subject.fill()
    started_at, cpu = time.perf_counter(), time.process_time()
    with subject.stores.ledger.keeping_connections() as ledger:
        stores = replace(subject.stores, ledger=ledger)
        snapshot = drain(stores, _request(counters, flush_max_counters))
        drained = time.perf_counter() - started_at
        report = bulk_upsert(stores, snapshot, aggregate(snapshot.readings))
    if report.views != VIEWS * counters:
        raise AssertionError(f"{report.views} views of {VIEWS * counters}: {report.notes.sentences()}")
    return Seconds(time.perf_counter() - started_at, drained, time.process_time() - cpu)


def main() -> int:
    """Measure, and print a line for each pair and the medians."""
    parser = argparse.ArgumentParser(prog="make cluster-bench", description="A cluster and a single Redis, in turn.")
    parser.add_argument("--counters", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flush-max-counters", type=int, default=10_000, help="of the cluster")
    options = parser.parse_args()
    for counters in options.counters:
        with opened(counters) as (single, cluster):
            sliced = options.flush_max_counters
            measure(single, counters), measure(cluster, counters, sliced)  # makes all rows and markers
            pairs = [(measure(single, counters), measure(cluster, counters, sliced)) for _ in range(options.rounds)]
        singles, clusters = (list(column) for column in zip(*pairs, strict=True))
        ratio = median(second.elapsed / first.elapsed for first, second in pairs)
        line = f"{counters:>9} counters: {_line('single', singles)}; {_line('cluster', clusters)}; ratio {ratio:.2f}"
        print(line, flush=True)  # noqa: T201 - a script
    return 0


def _request(counters: int, flush_max_counters: int) -> FlushRequest:
    run_max = 10 * counters
    return FlushRequest(uuid4().hex, run_max_counters=run_max, flush_max_counters=flush_max_counters)


def _line(name: str, measured: Sequence[Seconds]) -> str:
    elapsed, drained, cpu = (median(column) for column in zip(*measured, strict=True))
    return f"{name} {elapsed:.2f} s (drain {drained:.2f}, own CPU {cpu:.2f})"


@contextmanager
def opened(counters: int) -> Iterator[tuple[Subject, Subject]]:
    """Start all servers."""
    ids = [f"vod{number:08d}" for number in range(counters)]
    with ExitStack() as stack:
        home, database = stack.enter_context(throw_away_postgres("viewer-cluster-bench-"))
        server = RedisServer(home / "redis", append_only=False)
        server.start()
        stack.callback(server.stop)
        cluster = stack.enter_context(started(RedisCluster(home / "cluster", replicas=0, append_only=False)))
        single_client, home_client = stack.enter_context(connect(server.url)), stack.enter_context(connect(cluster.url))
        single = Stores(RedisStore(single_client, server.url, PREFIX), Ledger(_migrated(database, "single")))
        sharded = Stores(ClusterStore(home_client, cluster.url, PREFIX), Ledger(_migrated(database, "cluster")))
        yield Subject(single, lambda: _fill(single_client, ids)), Subject(sharded, lambda: _fill_cluster(cluster, ids))


def _migrated(database: PostgresServer, name: str) -> str:
    with psycopg.connect(database.url_of_database("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    migrate(url := database.url_of_database(name), with_dagster=False)
    return url


def _fill(client: redis.Redis, ids: Sequence[str]) -> None:
    for page in chunks(ids, PAGE):
        with client.pipeline(transaction=False) as pipe:
            for vod_id in page:
                pipe.set(PREFIX + vod_id, VIEWS)
            pipe.execute()


def _fill_cluster(cluster: RedisCluster, ids: Sequence[str]) -> None:
    owners = dict[int, ClusterNode]()
    at_node = dict[ClusterNode, list[str]]()
    for vod_id in ids:
        slot = key_slot((PREFIX + vod_id).encode())
        if slot not in owners:
            owner = cluster.node_of_slot(slot)
            owners |= {number: owner for text in owner.own_record().slots for number in _numbers(text)}
        at_node.setdefault(owners[slot], []).append(vod_id)
    for node, own in at_node.items():
        _fill(node.client, own)


def _numbers(slots: str) -> range:
    first, _, last = slots.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    sys.exit(main())
