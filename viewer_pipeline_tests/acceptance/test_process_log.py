"""The log of a child does not grow for ever."""

from __future__ import annotations

import sys
from pathlib import Path

from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline_tests.support.waiting import wait_until

# One write a line: print makes two of it where PYTHONUNBUFFERED is set, and the log may be put aside between them.
TALK = "import os, time\nwhile True: os.write(1, b'x' * 999 + b'\\n'); time.sleep(0.001)"


def test_a_log_is_put_aside(tmp_path: Path) -> None:
    """The child goes on writing; what it wrote before is kept once."""
    child = ManagedProcess("talker", [sys.executable, "-c", TALK], log=tmp_path / "talker.log")
    child.start()
    try:
        assert child.log is not None
        log = child.log
        wait_until(lambda: log.exists() and log.stat().st_size > 50_000, 30, "a long log")
        child.rotate(10_000_000)
        assert not (tmp_path / "talker.log.1").exists()
        child.rotate(50_000)
        assert (tmp_path / "talker.log.1").stat().st_size > 50_000
        wait_until(lambda: log.stat().st_size > 1000, 30, "a line in the new log")
        assert log.read_bytes()[:1] == b"x"  # and no hole of zeros before it
    finally:
        child.stop()
