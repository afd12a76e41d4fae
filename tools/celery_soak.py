"""Kill Celery workers, their broker and runs while views arrive: `make celery-soak`.

Two workers execute the runs of two streams. In each round a producer sends views, half of them by INCR, half as
messages. Meanwhile a worker is killed with all its processes, or its run alone, or the broker, which loses its tasks;
or a worker is paused for longer than its lease. What was killed is started again. At the end, the totals are compared
with what was sent: views lost, views doubled. Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tools.up_with_celery import UpWithCelery, start_up_with_celery
from viewer_pipeline.bench.measured_up import CHANNEL
from viewer_pipeline.redis_names import DEFAULT_PREFIX
from viewer_pipeline.stack.managed_process import ManagedProcess, signal_processes

INTERVAL_MS = 5000
PIPELINE = 100  # views
PAUSE_SECONDS = 20.0  # of a worker: its lease ends after 15 s
ROUND_SECONDS = (2.0, 12.0)  # between two faults: some hit a run, some its launch, some an idle worker
DRAIN_SECONDS = 300.0  # until all is persisted, once nothing is killed any more


class Soak:
    """The stack, and what was done to it."""

    def __init__(self, stack: UpWithCelery, vods: int, seed: int) -> None:
        self.stack, self.random = stack, random.Random(seed)
        self.vods = [f"vod{number:06d}" for number in range(vods)]
        self.sent, self.done, self.ended = Counter[str](), Counter[str](), threading.Event()
        self.faults: dict[str, Callable[[], None]] = {
            "workers killed": self._kill_worker,
            "runs killed": self._kill_run,
            "brokers killed": self._kill_broker,
            "workers paused": self._pause_worker,
        }

    def run(self, rounds: int) -> None:
        """Send views while one fault follows the other."""
        producer = threading.Thread(target=self._send)
        producer.start()
        try:
            for number in range(rounds):
                time.sleep(self.random.uniform(*ROUND_SECONDS))
                name = self.random.choice(list(self.faults))
                self.faults[name]()
                print(f"round {number + 1}: {self.summary()}", flush=True)  # noqa: T201 - a script
        finally:
            self.ended.set()
            producer.join()

    def wait_until_persisted(self) -> None:
        """Return once the totals are what was sent, or after a while."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.totals() != self.sent and time.monotonic() < deadline:
            time.sleep(1)

    def totals(self) -> Counter[str]:
        """Return the totals by VOD."""
        return Counter(dict(self.stack.up.connection.execute("SELECT vod_id, view_count FROM viewer.vod_view_counts")))

    def pending(self) -> Counter[str]:
        """Return what is left in Redis, by VOD."""
        values: Any = self.stack.up.client.mget([DEFAULT_PREFIX + vod for vod in self.vods])
        return Counter({vod: int(value) for vod, value in zip(self.vods, values, strict=True) if value})

    def runs(self) -> dict[str, int]:
        """Return the number of runs by status."""
        return dict(self.stack.up.connection.execute("SELECT status, count(*) FROM dagster.runs GROUP BY 1"))

    def partitions(self) -> dict[str, int]:
        """Return how often each partition was materialized."""
        query = """
            SELECT partition, count(*) FROM dagster.event_logs
            WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = '["view_counts"]'
            GROUP BY 1 ORDER BY 1
        """
        return dict(self.stack.up.connection.execute(query))

    def summary(self) -> str:
        """Return the counts so far."""
        return ", ".join([f"{self.sent.total()} views sent", *(f"{n} {name}" for name, n in self.done.items())])

    def _send(self) -> None:
        while not self.ended.wait(0.05):
            views = self.random.choices(self.vods, k=PIPELINE)
            with self.stack.up.client.pipeline(transaction=False) as pipe:
                for number, vod in enumerate(views):
                    if number % 2:
                        pipe.incr(DEFAULT_PREFIX + vod)
                    else:
                        pipe.publish(CHANNEL, json.dumps({"vodId": vod, "count": 1}))
                pipe.execute()
            self.sent.update(views)

    def _kill_worker(self) -> None:
        worker = self.random.choice(self.stack.workers)
        signal_processes(worker.descendant_pids(), signal.SIGKILL)
        self._restart(worker)
        self.done["workers killed"] += 1

    def _kill_run(self) -> None:
        """Kill what a worker has forked: its pool restarts it, or a run."""
        worker = self.random.choice(self.stack.workers)
        signal_processes(worker.descendant_pids()[1:], signal.SIGKILL)
        self.done["runs killed"] += 1

    def _kill_broker(self) -> None:
        signal_processes(self.stack.broker.process.descendant_pids(), signal.SIGKILL)
        time.sleep(self.random.uniform(0, 10))
        self.stack.broker.start()
        self.done["brokers killed"] += 1

    def _pause_worker(self) -> None:
        paused = self.random.choice(self.stack.workers).descendant_pids()
        signal_processes(paused, signal.SIGSTOP)
        time.sleep(PAUSE_SECONDS)
        signal_processes(paused, signal.SIGCONT)
        self.done["workers paused"] += 1

    def _restart(self, worker: ManagedProcess) -> None:
        time.sleep(self.random.uniform(0, 5))
        worker.start()


def main() -> int:
    """Run the rounds, and print what was lost and doubled. Exit status 1 if anything was."""
    parser = argparse.ArgumentParser(prog="make celery-soak", description="Disturb runs on Celery workers.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--vods", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with start_up_with_celery(interval_ms=INTERVAL_MS, FLUSH_STREAMS="2") as stack:
        stack.up.wait_for(stack.up.has_subscriber, "a subscriber")
        soak = Soak(stack, options.vods, options.seed)
        soak.run(options.rounds)
        soak.wait_until_persisted()
        pending, totals = soak.pending(), soak.totals()
        stored = totals + pending
        lost, doubled = (soak.sent - stored).total(), (stored - soak.sent).total()
        print(f"runs: {soak.runs()}; materializations of partitions: {soak.partitions()}")  # noqa: T201
    print(f"{soak.summary()}; lost {lost}, doubled {doubled}, left in Redis {pending.total()}")  # noqa: T201
    return int(bool(lost or doubled or pending.total()))


if __name__ == "__main__":
    sys.exit(main())
