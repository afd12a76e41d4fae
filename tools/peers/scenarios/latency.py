"""What others notice: delay until a view is persisted, stalls of Redis, and the sum that a reader sees."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace

import psycopg

from tools.peers.peers import Peer
from tools.peers.plan import Plan
from tools.peers.world import World, running, vod_ids
from viewer_pipeline.bench.run_costs import percentile
from viewer_pipeline.bench.thread_until_exit import ThreadUntilExit
from viewer_pipeline.stores.redis import connect

INTERVAL = 5.0  # seconds from one flush to the next while delays are measured
MARKER_SECONDS = (0.5, 1.5)  # between two of them; varied, because flushes are regular
POLL_SECONDS = 0.02
WATCHED = 100  # VODs whose views the reader sums
PING_SECONDS = 0.001


@dataclass(frozen=True)
class Delays:
    """Seconds from the acknowledgement of a view until it was in the totals."""

    p50: float
    p95: float


@dataclass(frozen=True)
class SeenByOthers:
    """Over all fills: the longest PING, and the lowest and highest sum a reader saw, as a share of the true one."""

    redis_stall_ms: float
    lowest_sum: float | None  # None: the views that are pending cannot be read from a stream
    highest_sum: float | None


def measure_delays(peer: Peer, plan: Plan) -> Delays:
    """Send single views at random moments."""
    generator, pending, delays = random.Random(plan.seed), dict[str, float](), list[float]()
    with running(peer, plan, interval=INTERVAL) as world:
        for number in range(plan.markers):
            world.send([f"marker{number}"])
            pending[f"marker{number}"] = time.perf_counter()
            end = time.perf_counter() + generator.uniform(*MARKER_SECONDS)
            while time.perf_counter() < end or (number == plan.markers - 1 and pending):
                for vod_id in world.read_totals_of(list(pending)):
                    delays.append(time.perf_counter() - pending.pop(vod_id))
                time.sleep(POLL_SECONDS)
    return Delays(percentile(delays, 0.5), percentile(delays, 0.95))


def measure_seen_by_others(peer: Peer, plan: Plan) -> SeenByOthers:
    """Fill all counters several times, and look from outside while they are flushed."""
    stalls, shares = list[float](), list[float]()
    with running(peer, plan, vods=plan.counters) as world:
        for number in range(1, plan.rounds + 1):
            world.fill(plan.counters)
            with Pinger(world.redis_server.url) as pinger, Reader(world, number * WATCHED) as reader:
                world.wait_until_all_persisted()
            world.wait_until_flushed()
            stalls.append(pinger.longest_ms)
            shares += reader.shares
    if peer.reads_stream:
        return SeenByOthers(max(stalls), None, None)
    return SeenByOthers(max(stalls), min(shares), max(shares))


class Pinger(ThreadUntilExit):
    """Sends PING on a connection of its own, and keeps the longest time until the reply."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.longest_ms = 0.0
        self._url = url

    def run_until_stopped(self) -> None:
        """Send until the block ends."""
        with connect(self._url) as client:
            client.ping()
            while not self.stop.wait(PING_SECONDS):
                started = time.perf_counter()
                client.ping()
                self.longest_ms = max(self.longest_ms, (time.perf_counter() - started) * 1000)


class Reader(ThreadUntilExit):
    """Adds counters and totals of some VODs. It reads Redis first: so it misses no view that moves meanwhile."""

    def __init__(self, world: World, true_sum: int) -> None:
        super().__init__()
        self.shares = list[float]()
        self._world, self._true_sum = world, true_sum
        self._watched = vod_ids(WATCHED)

    def run_until_stopped(self) -> None:
        """Read until the block ends."""
        with (
            psycopg.connect(self._world.postgres.url, autocommit=True) as connection,
            connect(self._world.redis_server.url) as client,
        ):
            world = replace(self._world, connection=connection, client=client)
            while not self.stop.wait(POLL_SECONDS):
                pending = world.read_pending(self._watched).total()
                self.shares.append((pending + world.read_totals_of(self._watched).total()) / self._true_sum)
