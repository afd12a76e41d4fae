"""The log of a managed process: its rotation, and the lines about its restarts."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from viewer_pipeline.stack.managed_process import ManagedProcess, RestartedProcess, rotate_log
from viewer_pipeline_tests.support.waiting import wait_until

# One write for each line: with PYTHONUNBUFFERED print makes two, and the log might be rotated between them.
PROGRAM = "import os, time\nwhile True: os.write(1, b'x' * 999 + b'\\n'); time.sleep(0.001)"


def test_rotate_keeps_one_previous_log(tmp_path: Path) -> None:
    """The process continues to write; the previous log is kept once."""
    process = ManagedProcess("writer", [sys.executable, "-c", PROGRAM], log=tmp_path / "writer.log")
    process.start()
    try:
        assert process.log is not None
        log = process.log
        wait_until(lambda: log.exists() and log.stat().st_size > 50_000, 30, "a long log")
        rotate_log(log, 10_000_000)
        assert not (tmp_path / "writer.log.1").exists()
        rotate_log(log, 50_000)
        assert (tmp_path / "writer.log.1").stat().st_size > 50_000
        wait_until(lambda: log.stat().st_size > 1000, 30, "a line in the new log")
        assert log.read_bytes()[:1] == b"x"  # and no hole of zeros before it
    finally:
        process.stop()


def test_a_restart_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An operator reads that a process ended, and that it is back."""
    caplog.set_level(logging.INFO, "viewer_pipeline.stack")
    restarted = RestartedProcess(ManagedProcess("short", [sys.executable, "-c", "raise SystemExit(3)"]), pause=0.0)
    restarted.process.start()
    try:
        wait_until(restarted.restart_if_ended, 30, "the restart")
    finally:
        restarted.process.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "process_ended name=short status=3 log=foreground",
        "process_restarted name=short",
    ]
