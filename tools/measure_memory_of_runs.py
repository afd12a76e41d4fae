"""Measure whether processes grow with the runs: `python -m tools.measure_memory_of_runs`.

The numbers in docs/measurements.md are from here. A stack of its own executes flush runs one after the other. It prints
the resident memory of each process after the first runs and at the end, and its growth for each run in between.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from viewer_pipeline.bench.measured_up import MeasuredUp, start_up
from viewer_pipeline.bench.process_tree import read_descendants
from viewer_pipeline_tests.support.stack import BANNER, query_graphql
from viewer_pipeline_tests.support.ui_runs import LAUNCH

QUEUED = 3  # runs that wait, so that the queue is never empty
SELECTOR = {"repositoryLocationName": "viewer_pipeline", "repositoryName": "__repository__", "jobName": "flush_views"}
PARAMETERS = {"selector": SELECTOR, "runConfigData": {}, "executionMetadata": {"tags": []}}
RESIDENT = re.compile(r"VmRSS:\s+(\d+) kB")


def resident_kb(up: MeasuredUp) -> dict[str, int]:
    """Return the resident memory of each process, by name and id. Those of PostgreSQL are left out."""
    sizes = {}
    for pid in read_descendants(up.process.reaper_pid):
        process = Path("/proc", str(pid))
        name = (process / "comm").read_text().strip()
        command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        if name == "python":
            name = re.sub(r".*-m (\S+ ?[a-z]*).*", r"\1", command.strip())
        if name != "postgres" and (match := RESIDENT.search((process / "status").read_text())):
            sizes[f"{name[:60]} {pid}"] = int(match[1])
    return sizes


def launch_until(up: MeasuredUp, ui: str, runs: int) -> None:
    """Have so many runs executed in all, each with a view to flush."""
    launched = up.read_usage().runs
    while (done := up.read_usage().runs) < runs:
        if launched < min(done + QUEUED, runs):
            launched += 1
            up.publish_view(f"vod{launched % 100}")
            query_graphql(ui, LAUNCH, params=PARAMETERS)
        else:
            up.wait_for(lambda: up.read_usage().runs > done, "the next run")


def main() -> None:
    """Execute the runs; print a line for each process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=200, help="runs before the measurement")
    parser.add_argument("--runs", type=int, default=2000, help="runs in all")
    options = parser.parse_args()
    with start_up(interval_ms=60_000, warm_runs=True) as up:
        up.wait_for(up.has_started, "the banner of `up`")
        assert up.process.log is not None
        ui = re.findall(BANNER, up.process.log.read_text())[0]
        launch_until(up, ui, options.first)
        before = resident_kb(up)
        launch_until(up, ui, options.runs)
        after = resident_kb(up)
    for name in before.keys() & after.keys():
        growth = (after[name] - before[name]) / (options.runs - options.first)
        print(f"{name}: {before[name]} kB, {after[name]} kB, {growth:.2f} kB a run")  # noqa: T201


if __name__ == "__main__":
    main()
