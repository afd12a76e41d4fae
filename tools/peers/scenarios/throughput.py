"""How fast, and what it costs: all counters get views at one moment, several times."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from tools.peers.peer_process import Flush, PeakMemory
from tools.peers.peers import Peer
from tools.peers.plan import Plan
from tools.peers.world import World, running
from viewer_pipeline.bench.process_tree import sum_cpu_seconds


@dataclass(frozen=True)
class Throughput:
    """Medians. CPU of the program, and with PostgreSQL and Redis, for 100,000 counters (of a stream: entries)."""

    per_second: float
    program_cpu_seconds: float
    all_cpu_seconds: float
    peak_mb: float


def measure_throughput(peer: Peer, plan: Plan) -> Throughput:
    """Fill all counters several times after a warm-up, and wait each time until they are in the totals.

    The time is that of the flush, as the program prints it. A program that reads a stream works without pause; its time
    is from the last entry to the last total.
    """
    counters = plan.counters
    with running(peer, plan, vods=counters) as world:
        rounds = [_measure_round(world, counters)]
        with PeakMemory(world.process) as memory:
            rounds += [_measure_round(world, counters) for _ in range(plan.rounds)]
    seconds, program_cpu, all_cpu = (statistics.median(values) for values in zip(*rounds[1:], strict=True))
    share = 100_000 / counters
    return Throughput(counters / seconds, program_cpu * share, all_cpu * share, memory.mb)


def _measure_round(world: World, counters: int) -> tuple[float, float, float]:
    """Fill and wait; return the seconds of the flush, CPU seconds of the program, and those with both servers."""
    roots = [world.process.reaper_pid, world.postgres.process.reaper_pid, world.redis_server.process.reaper_pid]
    flushes_before = len(world.process.flushes())
    cpu_before = [sum_cpu_seconds(root) for root in roots]
    world.fill(counters)
    started = time.perf_counter()
    if world.peer.reads_stream:
        world.wait_until_all_persisted()
        seconds = time.perf_counter() - started
    else:

        def new_flushes() -> list[Flush]:
            return world.process.flushes()[flushes_before:]

        world.wait_until(lambda: sum(flush.counters for flush in new_flushes()) >= counters, "a flush")
        seconds = sum(flush.seconds for flush in new_flushes())
    cpu = [sum_cpu_seconds(root) - before for root, before in zip(roots, cpu_before, strict=True)]
    return seconds, cpu[0], sum(cpu)
