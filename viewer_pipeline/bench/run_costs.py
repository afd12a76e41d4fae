"""What runs cost and how long they take, computed from what was read from a running `up`; and the goals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

from viewer_pipeline.bench.measured_up import Usage


@dataclass(frozen=True)
class RunCosts:
    """Of one `up`. All its processes count, with PostgreSQL and Redis."""

    runs: float  # launched while views came; the costs of a run are those above idle, divided by these
    cpu_seconds_per_run: float
    tick_to_success_p50: float  # seconds from the tick of the sensor to the end of the run that it launched
    tick_to_success_p95: float
    publish_to_persisted_p50: float  # seconds from PUBLISH to the statement that writes the view's total
    publish_to_persisted_p95: float
    idle_cores: float
    busy_cores: float  # with about one view a second
    sessions_per_run: float  # of PostgreSQL
    sessions_per_idle_second: float
    pss_mb: float  # idle
    worker_pss_mb: float
    start_cpu_seconds: float  # until the idle part, without the runs of that time, and without idling since a flush
    start_to_first_flush_seconds: float  # a view is published as soon as the worker is subscribed


@dataclass(frozen=True)
class RunStats:
    """Medians over the rounds, the rounds themselves, and the goals of warm runs: the highest values allowed."""

    rounds: int
    interval_ms: int
    spawned: RunCosts
    warm: RunCosts
    cpu_ratio: float  # warm / spawned, CPU of a run: the median over pairs
    goals: dict[str, float]
    missed_goals: list[str]
    spawned_rounds: list[RunCosts]
    warm_rounds: list[RunCosts]


@dataclass(frozen=True)
class Observations:
    """What was read from one `up`."""

    until_idle: Usage  # since its start
    idle: Usage  # during the idle part
    busy: Usage  # during the part with views
    first_flush_seconds: float  # since its start
    warm_up_seconds: float  # from the first flush to the idle part
    pss_mb: float
    worker_pss_mb: float
    tick_to_success: list[float]
    publish_to_persisted: list[float]


def compute_costs(seen: Observations) -> RunCosts:
    """Compute the costs of one `up`."""
    cores, sessions_per_second = seen.idle.cpu_seconds / seen.idle.at, seen.idle.sessions / seen.idle.at
    cpu_per_run = (seen.busy.cpu_seconds - cores * seen.busy.at) / seen.busy.runs
    return RunCosts(
        runs=seen.busy.runs,
        cpu_seconds_per_run=cpu_per_run,
        tick_to_success_p50=percentile(seen.tick_to_success, 0.5),
        tick_to_success_p95=percentile(seen.tick_to_success, 0.95),
        publish_to_persisted_p50=percentile(seen.publish_to_persisted, 0.5),
        publish_to_persisted_p95=percentile(seen.publish_to_persisted, 0.95),
        idle_cores=cores,
        busy_cores=seen.busy.cpu_seconds / seen.busy.at,
        sessions_per_run=(seen.busy.sessions - sessions_per_second * seen.busy.at) / seen.busy.runs,
        sessions_per_idle_second=sessions_per_second,
        pss_mb=seen.pss_mb,
        worker_pss_mb=seen.worker_pss_mb,
        start_cpu_seconds=seen.until_idle.cpu_seconds
        - cpu_per_run * seen.until_idle.runs
        - cores * seen.warm_up_seconds,
        start_to_first_flush_seconds=seen.first_flush_seconds,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values is, between the two nearest ones."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    lower, upper = ordered[int(at)], ordered[min(int(at) + 1, len(ordered) - 1)]
    return lower + (upper - lower) * (at - int(at))


def summarise(spawned: list[RunCosts], warm: list[RunCosts], interval_ms: int) -> RunStats:
    """Return the medians over the rounds, and which goals they miss."""
    ratio = statistics.median(
        new.cpu_seconds_per_run / old.cpu_seconds_per_run for old, new in zip(spawned, warm, strict=True)
    )
    median, goals = _median(warm), goals_at(interval_ms)
    values = {name: ratio if name == "cpu_ratio" else getattr(median, name) for name in goals}
    missed = [name for name, goal in goals.items() if values[name] > goal]
    return RunStats(len(warm), interval_ms, _median(spawned), median, ratio, goals, missed, spawned, warm)


def _median(rounds: list[RunCosts]) -> RunCosts:
    names = [field.name for field in fields(RunCosts)]
    return RunCosts(**{name: statistics.median(getattr(costs, name) for costs in rounds) for name in names})


def goals_at(interval_ms: int) -> dict[str, float]:
    """Return the highest value that each cost of warm runs may have, at this BATCH_INTERVAL_MS."""
    interval = interval_ms / 1000
    return {
        "cpu_seconds_per_run": 0.4,
        "cpu_ratio": 1 / 8,
        "tick_to_success_p50": 0.8,
        "tick_to_success_p95": 1.2,
        "publish_to_persisted_p50": interval / 2 + 0.7,
        "publish_to_persisted_p95": interval + 0.8,
        "idle_cores": 0.04,
        "sessions_per_run": 10,
        "pss_mb": 550,
        "worker_pss_mb": 70,
        "start_to_first_flush_seconds": 6,
    }
