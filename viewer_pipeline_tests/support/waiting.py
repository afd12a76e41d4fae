"""Waiting for a condition, the only place where tests let time pass; and the processes of a test."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROC = Path("/proc")
BUSY_FACTOR = 3  # a busy machine was seen to take that much longer; a test that passes does not wait for it
ENOUGH = 300  # seconds after which a test stops waiting for a process, a thread or an answer that must come


def wait_until(condition: Callable[[], object], seconds: float, expected: str) -> None:
    """Poll until the condition holds. Raises AssertionError with `expected` after the deadline.

    `seconds`: what is enough on a machine that is not busy. The deadline is BUSY_FACTOR times later, at least ENOUGH.
    """
    seconds = max(BUSY_FACTOR * seconds, ENOUGH)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {expected}"
        time.sleep(0.02)


def seconds_of_fastest(action: Callable[[], object], limit: float, tries: int = 5) -> float:
    """Return how long the fastest try took. The first within the limit is the last: a busy machine may take longer."""
    fastest = math.inf
    while fastest >= limit and (tries := tries - 1) >= 0:
        started = time.monotonic()
        action()
        fastest = min(fastest, time.monotonic() - started)
    return fastest


def processes_with(word: str | Path) -> dict[int, str]:
    """Return the processes that have `word` in command, environment or working directory: pid -> command. No zombies.

    A path below a test's own directory matches the processes that the test started, also those that have another parent
    by now.
    """
    if not PROC.is_dir():
        listed = subprocess.run(["ps", "axeww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
        lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines() if str(word) in line]
        return {int(pid): command for pid, command in lines if int(pid) != os.getpid()}
    processes = {}
    for process in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            command = (process / "cmdline").read_bytes()
            known = command + (process / "environ").read_bytes() + os.fsencode((process / "cwd").readlink())
            if os.fsencode(word) in known and int(process.name) != os.getpid():
                processes[int(process.name)] = os.fsdecode(command.replace(b"\0", b" "))
    return processes
