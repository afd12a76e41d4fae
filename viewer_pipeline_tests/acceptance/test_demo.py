"""`viewer-pipeline demo` as the wheel installs it: its report, its exit status, and no leftovers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from viewer_pipeline_tests.support.terminal import Terminal
from viewer_pipeline_tests.support.waiting import processes_with, wait_until

VIEWS, VODS = 300, 20


def demo(program: Path, tmp_path: Path, status: int, *options: str, **variables: str) -> dict[str, Any]:
    """Run a small demo, assert that it leaves nothing behind, and return its report."""
    scratch, home = tmp_path / "scratch", tmp_path / "home"
    scratch.mkdir()
    home.mkdir()
    arguments = ["demo", "--views", str(VIEWS), "--vods", str(VODS), "--json", *options]
    result = subprocess.run(
        [program, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(scratch), **variables},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout.count("\n")) == (status, 1), result.stderr
    assert "Traceback" not in result.stderr
    wait_until(lambda: not processes_with(tmp_path), 10, "every process of the demo has ended")
    assert list(scratch.iterdir()) == []
    assert list(home.iterdir()) == []
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_demo_counts_every_view_once(program: Path, tmp_path: Path) -> None:
    """Views by INCR, by PUBLISH and in bursts are persisted by real runs: none is lost or counted twice.

    Also while another stack has the port that the environment names.
    """
    with socket.create_server(("127.0.0.1", 0)) as other:
        report = demo(program, tmp_path, 0, HEALTH_CHECK_PORT=str(other.getsockname()[1]))
    assert (report["exact"], report["lost"], report["duplicated"]) == (True, 0, 0)
    assert report["sent"] == report["persisted"]
    assert sum(report["persisted"].values()) == VIEWS
    assert (report["left_in_redis"], report["parked"], report["rejected"]) == (0, 0, 0)
    assert report["flush_runs"] >= 1
    assert report["flushes"] >= 1


def test_demo_ends_with_its_terminal(program: Path, tmp_path: Path) -> None:
    """If the terminal is closed, the servers end and no files are left."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(scratch), "TERM": "xterm"}
    with Terminal(tmp_path / "terminal.log") as terminal:
        with subprocess.Popen([*terminal.prefix, program, "demo"], env=environment, cwd=tmp_path) as process:
            wait_until(lambda: "migrating" in terminal.log.read_text(), 60, "both servers")
            terminal.close()
        assert process.returncode == 128 + signal.SIGHUP
    wait_until(lambda: not processes_with(tmp_path), 10, "every process of the demo has ended")
    assert list(scratch.iterdir()) == []


def test_demo_reports_a_time_limit(program: Path, tmp_path: Path) -> None:
    """Exit status 1; pending views are reported as left in Redis, and not as persisted, lost or duplicated."""
    # A run in a new process imports Dagster first: no view can be persisted in time, on any machine.
    report = demo(program, tmp_path, 1, "--time-limit", "1", WARM_RUNS="false")
    sent, persisted = sum(report["sent"].values()), sum(report["persisted"].values())
    assert not report["exact"]
    assert (report["duplicated"], report["parked"], report["rejected"]) == (0, 0, 0)
    assert 0 < sent <= VIEWS
    assert 0 < report["left_in_redis"] <= sent - persisted
    assert report["lost"] <= sent - persisted - report["left_in_redis"]
