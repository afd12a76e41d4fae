"""Measure what runs cost: `python -m tools.measure_run_costs`.

The numbers in docs/measurements.md are from here. A stack of its own (`viewer-pipeline up`, BATCH_INTERVAL_MS=5000
unless `--interval-ms` changes it) does nothing for a while; then a message is published every second. Counted are
logins to PostgreSQL and seconds of CPU of all its processes, servers included: for each second without views and,
beyond that, for each run.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psycopg

from tools.measure_history import print_line
from viewer_pipeline.home_lock_and_server_urls import read_urls_of_running_servers
from viewer_pipeline.stores.redis import connect as connect_redis
from viewer_pipeline_tests.support.stack import Stack, up, variables
from viewer_pipeline_tests.support.waiting import wait_until

SETTLE_SECONDS = 20.0  # after the start, caches and pools are filled
COUNTS = """
    SELECT (SELECT sessions FROM pg_stat_database WHERE datname = current_database()),
        (SELECT count(*) FROM dagster.runs WHERE status = 'SUCCESS')
"""
USER_TIME, CHILD_SYSTEM_TIME = 11, 14  # fields of /proc/PID/stat after the name: user, system, and of ended children


@dataclass(frozen=True)
class Usage:
    """Totals at one moment."""

    at: float
    logins: int
    runs: int
    cpu_seconds: float

    @classmethod
    def of(cls, stack: Stack) -> Self:
        """Read the totals of a stack. The reader's own login is counted as well, once for each call."""
        url = read_urls_of_running_servers(stack.home)["database_url"]
        with psycopg.connect(url) as connection:
            logins, runs = connection.execute(COUNTS).fetchone() or (0, 0)
        return cls(time.monotonic(), logins, runs, cpu_seconds_of_tree(stack.process.pid))

    def since(self, earlier: Usage) -> Usage:
        """Return the differences, without the reader's login."""
        return Usage(
            self.at - earlier.at,
            self.logins - earlier.logins - 1,
            self.runs - earlier.runs,
            self.cpu_seconds - earlier.cpu_seconds,
        )


def cpu_seconds_of_tree(root: int) -> float:
    """Return the CPU time of a process, its living descendants, and all ended children of these."""
    parents, ticks = dict[int, int](), dict[int, int]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        ticks[pid] = sum(int(field) for field in fields[USER_TIME : CHILD_SYSTEM_TIME + 1])
    tree, before = {root}, 0
    while len(tree) != before:
        before = len(tree)
        tree |= {pid for pid, parent in parents.items() if parent in tree}
    return sum(ticks.get(pid, 0) for pid in tree) / os.sysconf("SC_CLK_TCK")


def publish_every_second(redis_url: str, seconds: float) -> None:
    """Publish one view a second."""
    with connect_redis(redis_url) as client:
        for number in range(round(seconds)):
            client.publish("view_count_updates", json.dumps({"vodId": f"vod{number % 20}", "count": 1}))
            time.sleep(1)


def main() -> None:
    """Measure a stack without views, then with them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120, help="of each of the two parts")
    parser.add_argument("--interval-ms", default="5000", help="BATCH_INTERVAL_MS")
    options = parser.parse_args()
    settings = {"BATCH_INTERVAL_MS": options.interval_ms}
    with tempfile.TemporaryDirectory() as home, up(variables(Path(home), **settings)) as stack:
        stack.wait_for_ui()
        publish_every_second(read_urls_of_running_servers(stack.home)["redis_url"], 2)
        wait_until(lambda: Usage.of(stack).runs, 120, "the first run")
        time.sleep(SETTLE_SECONDS)
        begin = Usage.of(stack)
        time.sleep(options.seconds)
        idle = (middle := Usage.of(stack)).since(begin)
        publish_every_second(read_urls_of_running_servers(stack.home)["redis_url"], options.seconds)
        busy = Usage.of(stack).since(middle)
        stack.stop()
    logins, cpu = idle.logins / idle.at, idle.cpu_seconds / idle.at
    print_line(f"idle, {idle.at:.0f} s: {logins:.1f} logins a second, {cpu:.3f} cores")
    runs = max(1, busy.runs)
    print_line(f"{busy.runs} runs in {busy.at:.0f} s: {busy.cpu_seconds / busy.at:.3f} cores")
    print_line(
        f"above idle: {(busy.logins - logins * busy.at) / runs:.0f} logins a run,"
        f" {(busy.cpu_seconds - cpu * busy.at) / runs:.2f} s of CPU a run"
    )


if __name__ == "__main__":
    main()
