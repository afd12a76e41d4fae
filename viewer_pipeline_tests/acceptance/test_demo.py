"""`viewer-pipeline demo` as the wheel installs it: the verdict, the exit status, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from viewer_pipeline_tests.support.terminal import Terminal
from viewer_pipeline_tests.support.waiting import processes_with, wait_until

VIEWS, VODS = 300, 20


def demo(program: Path, tmp_path: Path, status: int, *options: str) -> dict[str, Any]:
    """Run a small demo, hold it to leaving nothing behind, and return its report."""
    scratch, home = tmp_path / "scratch", tmp_path / "home"
    scratch.mkdir()
    home.mkdir()
    words = ["demo", "--views", str(VIEWS), "--vods", str(VODS), "--json", *options]
    done = subprocess.run(
        [program, *words],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(scratch)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.count("\n")) == (status, 1), done.stderr
    assert "Traceback" not in done.stderr
    wait_until(lambda: not processes_with(tmp_path), 10, "every process of the demo has ended")
    assert list(scratch.iterdir()) == []
    assert list(home.iterdir()) == []
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.timeout(240)
def test_every_view_arrives_once(program: Path, tmp_path: Path) -> None:
    """Views by INCR, by PUBLISH and in bursts are persisted by real runs: none is lost or counted twice."""
    report = demo(program, tmp_path, 0)
    assert (report["exact"], report["lost"], report["duplicated"]) == (True, 0, 0)
    assert report["sent"] == report["persisted"]
    assert sum(report["persisted"].values()) == VIEWS
    assert (report["left_in_redis"], report["parked"], report["rejected"]) == (0, 0, 0)
    assert report["flush_runs"] >= 1
    assert report["flushes"] >= 1


def test_closed_terminal(program: Path, tmp_path: Path) -> None:
    """The servers that it has started end, and nothing is left of it."""
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


def test_a_demo_that_cannot_finish_tells_the_truth(program: Path, tmp_path: Path) -> None:
    """Exit status 1; what is on its way in Redis is called so, neither persisted nor lost nor counted twice."""
    report = demo(program, tmp_path, 1, "--time-limit", "0.1")
    sent, persisted = sum(report["sent"].values()), sum(report["persisted"].values())
    assert not report["exact"]
    assert (report["duplicated"], report["parked"], report["rejected"]) == (0, 0, 0)
    assert 0 < sent <= VIEWS
    assert 0 < report["left_in_redis"] <= sent - persisted
    assert report["lost"] <= sent - persisted - report["left_in_redis"]
