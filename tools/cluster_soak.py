"""Flush a Redis Cluster while processes are killed, primaries fail over and slots move: `make cluster-soak`.

In each round, a producer sends views to all nodes. Flushes run one after the other, each in a process that is killed
after a random time. A slot migrates, key by key, again and again, and a primary fails over. Every tenth round a primary
is killed instead, once its replica has all; flushes wait for replicas then (REDIS_WAIT_REPLICAS). At the end a
flush that nobody disturbs runs, and the totals are compared with what the producer sent: views lost, views doubled.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
import redis

from tools.throw_away_postgres import throw_away_postgres
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.layout import key_slot
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.stores.redis_durability_wait import Durability
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.failover import started

PREFIX = "vod:views:"
VODS = [f"vod{number:05d}" for number in range(3000)]
ROUND_SECONDS = 4.0
KILL_AFTER = (0.05, 3.0)  # seconds
WAIT = Durability(replicas=1, timeout_ms=10_000)


@dataclass
class Tally:
    """What was done."""

    sent: Counter[str] = field(default_factory=Counter)
    killed: int = 0
    ended: int = 0
    failovers: int = 0
    promotions: int = 0
    moved_slots: int = 0


def flush(redis_url: str, database_url: str) -> None:
    """Run one flush; an error that a later run overcomes ends it quietly."""
    logging.disable(logging.CRITICAL)
    with connect(redis_url) as client, Ledger(database_url).keeping_connections() as ledger:
        store = ClusterStore(client, redis_url, PREFIX, durability=WAIT)
        stores = Stores(store, ledger)
        with suppress(ViewerPipelineError):
            snapshot = drain(stores, FlushRequest(uuid4().hex, "sweep", flush_max_counters=500))
            bulk_upsert(stores, snapshot, aggregate(snapshot.readings))


class Soak:
    """The servers, and the threads that disturb them."""

    def __init__(self, cluster: RedisCluster, database_url: str, seed: int) -> None:
        self.cluster, self.database_url, self.random = cluster, database_url, random.Random(seed)
        self.tally, self.pausing = Tally(), threading.Lock()
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload([__name__])
        self.client: Any = cluster.cluster_client()
        self.ends = 0.0

    def round(self, number: int) -> None:
        """Let everything happen at once for some seconds."""
        self.ends = time.monotonic() + ROUND_SECONDS
        is_last_of_ten = number % 10 == 9
        works = [
            self._send,
            self._flush_and_kill,
            self._move_slots if is_last_of_ten else self._fail_over_and_move_slots,
        ]
        errors = list[BaseException]()
        threads = [threading.Thread(target=_caught, args=(work, errors)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if is_last_of_ten:
            self._kill_primary()
        if errors:
            raise errors[0]

    def _send(self) -> None:
        """Send views; each command is acknowledged, or was redirected and is sent again."""
        while time.monotonic() < self.ends:
            views = Counter(self.random.choices(VODS, k=300))
            for vod_id, number in views.items():
                self.client.incrby(PREFIX + vod_id, number)
                self.tally.sent[vod_id] += number

    def _flush_and_kill(self) -> None:
        while time.monotonic() < self.ends:
            process = self.processes.Process(target=flush, args=(self.cluster.url, self.database_url))
            process.start()
            process.join(self.random.uniform(*KILL_AFTER))
            if process.is_alive():
                process.kill()
                process.join()
            self.tally.killed += process.exitcode == -signal.SIGKILL
            self.tally.ended += process.exitcode == 0
            if process.exitcode not in (0, -signal.SIGKILL):
                raise RuntimeError(f"a flush ended with {process.exitcode}")

    def _fail_over_and_move_slots(self) -> None:
        with suppress(AssertionError):
            self.cluster.failover(self.random.choice(self.cluster.primaries()))
            self.tally.failovers += 1
        self.ends = max(self.ends, time.monotonic() + ROUND_SECONDS / 2)
        self._move_slots()

    def _move_slots(self) -> None:
        while time.monotonic() < self.ends:
            slot = key_slot((PREFIX + self.random.choice(VODS)).encode())
            with suppress(AssertionError, redis.RedisError, StopIteration):  # a failover came between: it is repaired
                owner = self.cluster.node_of_slot(slot)
                target = self.random.choice([node for node in self.cluster.primaries() if node is not owner])
                self.cluster.migrate_slot(slot, target, one_by_one=self.random.random() < 0.5)
                self.tally.moved_slots += 1

    def _kill_primary(self) -> None:
        """Kill a primary during a flush. Its replica has all that was sent."""
        self.cluster.wait_until_replicated()
        primary = self.random.choice(self.cluster.primaries())
        process = self.processes.Process(target=flush, args=(self.cluster.url, self.database_url))
        process.start()
        process.join(self.random.uniform(0.3, 1.0))
        self.cluster.kill(primary)
        self.cluster.wait_for_promotion(primary)
        process.join()
        self.cluster.restart(primary)
        self.tally.promotions += 1

    def close_open_slots(self) -> None:
        """Finish migrations that a failover had interrupted."""
        for node in self.cluster.primaries():
            for word in node.own_record().open_slots:
                slot = int(word.strip("[]").split("-")[0])
                with suppress(redis.RedisError):
                    node.command("CLUSTER", "SETSLOT", slot, "STABLE")

    def totals(self) -> Counter[str]:
        """Return totals, pending and held views by VOD."""
        with psycopg.connect(self.database_url) as connection:
            rows = connection.execute("SELECT vod_id, view_count FROM viewer.vod_view_counts").fetchall()
            totals = Counter[str](dict(rows))
            held = connection.execute("SELECT vod_id, sum(views)::bigint FROM viewer.held GROUP BY 1").fetchall()
        return totals + Counter(dict(held)) + Counter(self.cluster.counters(PREFIX))


def _caught(work: Callable[[], None], errors: list[BaseException]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - raised by the main thread
        errors.append(error)


def main() -> int:
    """Run the rounds, and print what was lost and doubled. Exit status 1 if anything was."""
    parser = argparse.ArgumentParser(prog="make cluster-soak", description="Disturb flushes of a Redis Cluster.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with ExitStack() as stack:
        home, database = stack.enter_context(throw_away_postgres("viewer-cluster-soak-"))
        migrate(database.url, with_dagster=False)
        cluster = stack.enter_context(started(RedisCluster(home / "cluster")))
        soak = Soak(cluster, database.url, options.seed)
        for number in range(options.rounds):
            soak.round(number)
            print(f"round {number + 1}: {_numbers(soak.tally)}", flush=True)  # noqa: T201 - a script
        soak.close_open_slots()
        for _ in range(3):
            flush(cluster.url, database.url)
        stored, sent = soak.totals(), soak.tally.sent
        lost, doubled = (sent - stored).total(), (stored - sent).total()
        left = sum(cluster.counters(PREFIX).values())
    print(f"{_numbers(soak.tally)}; lost {lost}, doubled {doubled}, left in Redis {left}")  # noqa: T201
    return int(bool(lost or doubled or left))


def _numbers(tally: Tally) -> str:
    return (
        f"{tally.sent.total()} views sent, {tally.killed} flushes killed, {tally.ended} ended,"
        f" {tally.failovers} failovers, {tally.promotions} primaries killed, {tally.moved_slots} slots moved"
    )


if __name__ == "__main__":
    sys.exit(main())
