"""How fast, and what it costs: all counters get views at one moment, several times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from tools.peers.peer_process import Flush, PeakMemory
from tools.peers.peers import Peer
from tools.peers.plan import Plan
from tools.peers.world import World, running
from viewer_pipeline.bench.process_tree import sum_cpu_seconds


@dataclass(frozen=True)
class Throughput:
    """Medians. CPU of the program, and with PostgreSQL and Redis, for 100,000 counters (of a stream: entries)."""

    per_second: float
    per_second_without_verification: float | None  # None: it does not verify what it has written
    program_cpu_seconds: float
    all_cpu_seconds: float
    peak_mb: float


def measure_throughput_in_turn(peers: list[Peer], plan: Plan) -> dict[str, Throughput | TimeoutError]:
    """Return the result of each program by name, or why there is none. All run at the same time, and work in turn.

    A round fills all counters and waits until they are in the totals; the first one is a warm-up. So whatever else the
    machine does affects all programs alike.
    """
    failures, rounds, memory = dict[str, TimeoutError](), dict[str, list[_Round]](), dict[str, PeakMemory]()
    with ExitStack() as stack:
        worlds = dict[str, World]()
        for peer in peers:
            try:
                worlds[peer.name] = stack.enter_context(running(peer, plan, vods=plan.counters))
                memory[peer.name] = stack.enter_context(PeakMemory(worlds[peer.name].process))
            except TimeoutError as error:
                failures[peer.name] = error
        for _ in range(plan.rounds + 1):
            for name, world in worlds.items():
                if name not in failures:
                    try:
                        rounds.setdefault(name, []).append(_measure_round(world, plan.counters))
                    except TimeoutError as error:
                        failures[name] = error
    results = {name: _summarise(rounds[name][1:], plan.counters, memory[name].mb) for name in rounds.keys() - failures}
    return {**results, **failures}


def measure_throughput(peer: Peer, plan: Plan) -> Throughput:
    """Measure one program alone. Raises TimeoutError."""
    result = measure_throughput_in_turn([peer], plan)[peer.name]
    if isinstance(result, TimeoutError):
        raise result
    return result


class _Round(NamedTuple):
    seconds: float  # of the flush; of a stream: from the last entry to the last total
    verification_seconds: float
    program_cpu: float
    all_cpu: float


def _summarise(rounds: list[_Round], counters: int, peak_mb: float) -> Throughput:
    def median(values: Iterable[float]) -> float:
        return statistics.median(values)

    share = 100_000 / counters
    verifies = any(measured.verification_seconds for measured in rounds)
    return Throughput(
        counters / median(measured.seconds for measured in rounds),
        counters / median(measured.seconds - measured.verification_seconds for measured in rounds)
        if verifies
        else None,
        median(measured.program_cpu for measured in rounds) * share,
        median(measured.all_cpu for measured in rounds) * share,
        peak_mb,
    )


def _measure_round(world: World, counters: int) -> _Round:
    """Fill all counters, and wait until the program has written them."""
    roots = [world.process.reaper_pid, world.postgres.process.reaper_pid, world.redis_server.process.reaper_pid]
    flushes_before = len(world.process.flushes())
    cpu_before = [sum_cpu_seconds(root) for root in roots]
    world.fill(counters)
    started = time.perf_counter()
    if world.peer.reads_stream:
        world.wait_until_all_persisted()
        seconds, verification_seconds = time.perf_counter() - started, 0.0
    else:

        def new_flushes() -> list[Flush]:
            return world.process.flushes()[flushes_before:]

        world.wait_until(lambda: sum(flush.counters for flush in new_flushes()) >= counters, "a flush")
        seconds = sum(flush.seconds for flush in new_flushes())
        verification_seconds = sum(flush.verification_seconds for flush in new_flushes())
    cpu = [sum_cpu_seconds(root) - before for root, before in zip(roots, cpu_before, strict=True)]
    return _Round(seconds, verification_seconds, cpu[0], sum(cpu))
