"""Measure the CPU of a flush run by the number of its counters: `python -m tools.measure_cpu_of_runs`.

The numbers of docs/tuning.md are from here. It starts an `up` with warm runs, announces VODs, and reads the CPU of all
processes, with PostgreSQL and Redis, until the run's process has ended; what as long a time without a run takes is
subtracted. It takes three minutes. Linux only.
"""

from __future__ import annotations

import argparse
import sys
import time

from viewer_pipeline.bench.bench_runs import EXIT_SECONDS
from viewer_pipeline.bench.bench_servers import increment_counters, make_ids
from viewer_pipeline.bench.measured_up import MeasuredUp, start_up
from viewer_pipeline.redis_names import DEFAULT_PREFIX, RedisNames
from viewer_pipeline.stores.chunks import chunks

INTERVAL_MS, IDLE_SECONDS, CHUNK = 5000, 20.0, 1000
CHANGED = RedisNames.of(DEFAULT_PREFIX).changed


def read_redis_cpu(up: MeasuredUp) -> float:
    """Return the CPU seconds of Redis so far."""
    cpu = up.client.info("cpu")
    return float(cpu["used_cpu_sys"] + cpu["used_cpu_user"])


def measure_idle(up: MeasuredUp) -> float:
    """Return the cores that are used in a time without a run."""
    while True:
        up.wait_for(up.is_idle, "an end of its runs")
        before = up.read_usage()
        time.sleep(IDLE_SECONDS)
        idle = up.read_usage().since(before)
        if not idle.runs:
            return idle.cpu_seconds / idle.at


def measure_run(up: MeasuredUp, ids: list[str], idle_cores: float) -> float:
    """Return the CPU seconds of a run of these VODs, above idle and without that of raising the counters."""
    while True:
        before, redis_before = up.read_usage(), read_redis_cpu(up)
        increment_counters(up.client, ids, [1] * len(ids))
        for page in chunks(ids, CHUNK):
            up.client.zadd(CHANGED, dict.fromkeys(page, int(time.time() * 1000)))
        raised = read_redis_cpu(up) - redis_before
        up.wait_for(lambda: not up.client.zcard(CHANGED), "an empty changed set")
        up.wait_for(up.is_idle, "an end of its runs")
        time.sleep(EXIT_SECONDS)
        used = up.read_usage().since(before)
        if used.runs == 1:  # else a run began before all VODs were announced
            return used.cpu_seconds - raised - idle_cores * used.at


def main() -> None:
    """Measure each number of counters several times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counters", type=int, nargs="*", default=[100, 10_000, 100_000])
    parser.add_argument("--runs", type=int, default=6, help="of each number")
    options = parser.parse_args()
    with start_up(interval_ms=INTERVAL_MS, warm_runs=True) as up:
        up.wait_for(up.has_started, "its banner")
        ids = make_ids(max(options.counters))
        measure_run(up, ids, 0.0)  # all VODs have totals then
        idle = measure_idle(up)
        sys.stdout.write(f"idle: {idle:.3f} cores\n")
        for counters in options.counters:
            seconds = sorted(measure_run(up, ids[:counters], idle) for _ in range(options.runs))
            values = ", ".join(f"{value:.2f}" for value in seconds)
            sys.stdout.write(f"{counters:,} counters: {values} s of CPU\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
