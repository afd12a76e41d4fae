"""The cost and the delay of flush runs in a running `up`: in new Python processes, and in forked ones, in turn."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from viewer_pipeline.bench.measured_up import MeasuredUp, Usage, start_up
from viewer_pipeline.bench.run_costs import Observations, RunCosts, RunStats, compute_costs, summarise

EXIT_SECONDS = 2.0  # the process of a run ends after the run has succeeded
MESSAGE_SECONDS = (0.5, 1.5)  # between two messages; varied, because the ticks of the sensor are regular


def bench_runs(
    *, rounds: int, seconds: float, idle_seconds: float, interval_ms: int, on_progress: Callable[[str], None]
) -> RunStats:
    """Measure an `up` with spawned runs and one with warm runs in each round.

    Each is left alone for `idle_seconds` after its first flush, then measured without views for as long, then with
    views for `seconds`.
    """
    spawned, warm = list[RunCosts](), list[RunCosts]()
    for number in range(1, rounds + 1):
        for kind, costs in ("spawned", spawned), ("warm", warm):
            on_progress(f"round {number} of {rounds}: {kind} runs")
            with start_up(interval_ms=interval_ms, warm_runs=costs is warm) as up:
                costs.append(compute_costs(observe_up(up, seconds, idle_seconds)))
    return summarise(spawned, warm, interval_ms)


def observe_up(up: MeasuredUp, seconds: float, idle_seconds: float) -> Observations:
    """Measure a started `up`: without views for `idle_seconds`, then with views for `seconds`."""
    up.wait_for(up.has_subscriber, "a subscriber")
    up.publish_view("first")
    up.wait_for(up.read_persisted_at, "a first flush")
    first_flush_at = up.read_persisted_at()["first"]
    up.wait_for(up.has_started, "its banner")
    begin, idle = _measure_idle(up, idle_seconds)
    pss_mb, worker_pss_mb = up.read_pss_mb()
    up.wait_for(up.is_idle, "an end of its runs")
    before = up.read_usage()
    published = _publish_views(up, seconds, before.at)
    up.wait_for(lambda: published.keys() <= up.read_persisted_at().keys(), "the totals of all views")
    up.wait_for(up.is_idle, "an end of its runs")
    time.sleep(EXIT_SECONDS)
    busy, persisted = up.read_usage().since(before), up.read_persisted_at()
    return Observations(
        begin.since(Usage(up.started_at, 0, 0, 0)), idle, busy,
        first_flush_at - up.started_at, begin.at - first_flush_at, pss_mb, worker_pss_mb,
        up.read_tick_to_success(before.at), [persisted[vod_id] - at for vod_id, at in published.items()],
    )  # fmt: skip


def _measure_idle(up: MeasuredUp, idle_seconds: float) -> tuple[Usage, Usage]:
    """Warm up; return the totals at the begin of an idle part, and the differences at its end.

    Repeats both if a run was launched meanwhile, such as that of a schedule.
    """
    while True:
        up.wait_for(up.is_idle, "an end of its runs")
        runs = up.read_usage().runs
        time.sleep(idle_seconds)
        begin = up.read_usage()
        time.sleep(idle_seconds)
        end = up.read_usage()
        if end.runs == runs:
            return begin, end.since(begin)


def _publish_views(up: MeasuredUp, seconds: float, since: float) -> dict[str, float]:
    """Publish views of one VOD each until `seconds` are over and the sensor has launched a run; return when, by VOD."""
    generator = random.Random(5)  # noqa: S311 - the same times each time
    published = dict[str, float]()

    def publish_next() -> bool:
        vod_id = f"vod{len(published)}"
        published[vod_id] = up.publish_view(vod_id)
        time.sleep(generator.uniform(*MESSAGE_SECONDS))
        return time.time() > since + seconds

    while not publish_next():
        continue
    up.wait_for(lambda: publish_next() and up.read_tick_to_success(since), "a run by the sensor")
    return published
