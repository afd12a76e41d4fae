"""Measure runs on Celery workers: `python -m tools.measure_celery_runs`.

The numbers of docs/how-to/celery.md are from here. In each round it starts an `up` whose code server forks the runs,
then one with two Celery workers and a broker, and measures both as `viewer-pipeline bench runs` does; CPU is that of
all processes. It takes four minutes a round. Linux only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tools.up_with_celery import start_up_with_celery
from viewer_pipeline.bench.bench_runs import observe_up
from viewer_pipeline.bench.measured_up import MeasuredUp, start_up
from viewer_pipeline.bench.process_tree import read_descendants, sum_pss_mb
from viewer_pipeline.bench.run_costs import compute_costs

INTERVAL_MS = 5000


@contextmanager
def up_with_celery() -> Iterator[MeasuredUp]:
    """Start `up` with a broker and workers."""
    with start_up_with_celery(interval_ms=INTERVAL_MS) as started:
        yield started.up


def main() -> None:
    """Measure, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="with views")
    parser.add_argument("--idle-seconds", type=float, default=15.0)
    options = parser.parse_args()
    for _ in range(options.rounds):
        for kind in ("code server", "Celery"):
            start = up_with_celery() if kind == "Celery" else start_up(interval_ms=INTERVAL_MS, warm_runs=True)
            with start as up:
                costs = compute_costs(observe_up(up, options.seconds, options.idle_seconds))
                memory = sum_pss_mb([pid for each in up.beside for pid in read_descendants(each.reaper_pid)])
            sys.stdout.write(
                f"{kind}: {costs.runs:.0f} runs, {costs.cpu_seconds_per_run:.2f} s of CPU each; tick to success"
                f" {costs.tick_to_success_p50:.2f} s, 95 %: {costs.tick_to_success_p95:.2f} s;"
                f" idle {costs.idle_cores:.3f} cores; beside `up` {memory:.0f} MB\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
