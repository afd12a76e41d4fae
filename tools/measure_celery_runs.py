"""Measure runs on Celery workers: `python -m tools.measure_celery_runs`.

The numbers of docs/how-to/celery.md are from here. In each round it starts an `up` whose code server forks the runs,
then one with two Celery workers and a broker, and measures both as `viewer-pipeline bench runs` does; CPU is that of
all processes. It takes four minutes a round. Linux only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from viewer_pipeline.bench.bench_runs import observe_up
from viewer_pipeline.bench.measured_up import MeasuredUp, environment_of_up, start_up
from viewer_pipeline.bench.process_tree import read_descendants, sum_pss_mb
from viewer_pipeline.bench.run_costs import compute_costs
from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.celery_broker import read_broker

INTERVAL_MS, WORKERS = 5000, 2


@contextmanager
def up_with_celery() -> Iterator[MeasuredUp]:
    """Start `up` with a broker and workers, each with one process."""
    with ExitStack() as stop, tempfile.TemporaryDirectory(prefix="viewer-celery-") as directory:
        broker = RedisServer(Path(directory), port=find_free_port(), append_only=False)
        stop.callback(broker.stop)
        broker.start()
        up = stop.enter_context(start_up(interval_ms=INTERVAL_MS, warm_runs=True, CELERY_BROKER_URL=broker.url))
        for number in range(WORKERS):
            worker = ManagedProcess(
                f"celery-{number}",
                [
                    *(sys.executable, "-m", "celery", "-A", "viewer_pipeline.celery_worker", "worker"),
                    *("--concurrency", "1", "--hostname", f"{number}@%h"),
                ],
                environment=environment_of_up(up.home, CELERY_BROKER_URL=broker.url),
                log=Path(directory, f"celery-{number}.log"),
            )
            stop.callback(worker.stop)
            worker.start()
            up.beside.append(worker)
        up.beside.append(broker.process)
        up.wait_for(lambda: len(read_broker(broker.url).workers) == WORKERS, "its Celery workers")
        yield up


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
