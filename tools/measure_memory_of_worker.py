"""Measure what a worker takes of memory: `python -m tools.measure_memory_of_worker`. On Linux; it takes five minutes.

The figure in docs/sizing.md is from here. A worker runs alone, alone without byte code on disk, and below `up`. It
receives 300 000 views of 20 000 VODs, serves its status page, /health and /metrics, and is then idle. Three sizes are
printed, in MB:

- resident: all its pages in memory, as `ps` and `top` show it, and as it is in a container of its own;
- proportional (PSS): a page that several processes have is divided by their number;
- private: the pages that no other process has.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from viewer_pipeline.bench.bench_servers import BenchServers, bench_servers
from viewer_pipeline.bench.measured_up import environment_of_up, start_up, wait_for
from viewer_pipeline.bench.process_tree import find_by_command, read_descendants
from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stack.ports import find_free_port

COMMAND = "viewer_pipeline.cli worker"
CHANNEL = "view_count_updates"
VIEWS, VODS, PIPELINED, PAGES = 300_000, 20_000, 1_000, 20
SIZES = {"resident": ("Rss:",), "proportional": ("Pss:",), "private": ("Private_Clean:", "Private_Dirty:")}


def print_sizes(where: str, root: int) -> None:
    """Print the sizes of the one worker below a process."""
    (pid,) = find_by_command(read_descendants(root), COMMAND)
    lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()[1:]
    kb = {line.split()[0]: int(line.split()[1]) for line in lines}
    sizes = (f"{name} {sum(kb[field] for field in fields) / 1024:.0f}" for name, fields in SIZES.items())
    sys.stdout.write(f"{where}: {', '.join(sizes)} MB\n")


def use_and_leave_idle(port: int, client: redis.Redis, idle_seconds: float) -> None:
    """Publish views, and request what browsers and probes request; then wait."""
    for start in range(0, VIEWS, PIPELINED):
        with client.pipeline(transaction=False) as pipe:
            for number in range(start, start + PIPELINED):
                pipe.publish(CHANNEL, f'{{"vodId":"vod_{number % VODS}","count":1}}')
            pipe.execute()
    for _ in range(PAGES):
        for path in ("", "health", "metrics"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as response:
                response.read()
    time.sleep(idle_seconds)


@contextmanager
def start_worker(servers: BenchServers, home: Path, **variables: str) -> Iterator[tuple[int, int]]:
    """Run a worker and no other process of ours; yield a process above it, and its port."""
    port = find_free_port()
    variables |= {
        "DATABASE_URL": servers.database_url,
        "REDIS_URL": servers.settings.require_redis_url(),
        "HEALTH_CHECK_PORT": str(port),
    }
    process = ManagedProcess(
        "worker",
        [sys.executable, "-m", *COMMAND.split()],
        environment=environment_of_up(home, **variables),
        log=home / "worker.log",
    )
    process.start()
    try:
        wait_for(process, lambda: servers.client.pubsub_numsub(CHANNEL)[0][1], "a subscription")
        yield process.reaper_pid, port
    finally:
        process.stop()


def measure_alone(idle_seconds: float) -> None:
    """Measure a worker of its own, first with byte code on disk, then without."""
    with bench_servers() as servers, TemporaryDirectory(prefix="viewer-bench-") as directory:
        home = Path(directory)
        byte_code = {"PYTHONPYCACHEPREFIX": str(home / "byte-code"), "PYTHONDONTWRITEBYTECODE": ""}
        with start_worker(servers, home, **byte_code):
            pass  # writes the byte code
        without = {"PYTHONPYCACHEPREFIX": str(home / "none"), "PYTHONDONTWRITEBYTECODE": "1"}
        for name, variables in (("alone", byte_code), ("alone, without byte code", without)):
            with start_worker(servers, home, **variables) as (root, port):
                print_sizes(f"{name}, started", root)
                use_and_leave_idle(port, servers.client, idle_seconds)
                print_sizes(f"{name}, idle", root)


def measure_below_up(idle_seconds: float) -> None:
    """Measure the worker of `up`, which shares pages with Dagster's processes."""
    with start_up(interval_ms=30_000, warm_runs=True) as up:
        up.wait_for(up.has_started, "the banner of `up`")
        assert up.process.log is not None
        port = int(re.findall(r":(\d+)/health", up.process.log.read_text())[0])
        use_and_leave_idle(port, up.client, idle_seconds)
        print_sizes("below `up`, idle", up.process.reaper_pid)


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--idle", type=float, default=60, help="seconds without views before the measurement")
    options = parser.parse_args()
    measure_alone(options.idle)
    measure_below_up(options.idle)


if __name__ == "__main__":
    main()
