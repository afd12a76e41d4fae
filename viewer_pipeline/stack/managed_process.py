"""A child process that ends with its parent, however the parent ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

REAPER = Path(__file__).with_name("reaper.py")


class ManagedProcess:
    """One command under a reaper. Output is appended to `log`, or goes where the parent's goes."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        stop_signal: str = "TERM",
        grace: float = 10,
        user: str | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.grace = grace
        self._environment = dict(environment) if environment is not None else None
        options = ["--signal", stop_signal, "--grace", str(grace), *(["--user", user] if user else [])]
        self._command = [sys.executable, "-I", "-S", str(REAPER), *options, "--", *map(str, command)]
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the command; again, if it has ended."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        output: IO[bytes] | None = self.log.open("ab") if self.log else None
        self._log_start = output.tell() if output else 0
        try:
            self._process = subprocess.Popen(  # noqa: S603
                self._command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,  # Ctrl-C in the terminal reaches the parent only, which stops all in order
            )
        finally:
            if output is not None:
                output.close()

    @property
    def pid(self) -> int:
        """Process id of the reaper."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def descendants(self) -> list[int]:
        """Return the process ids of the command and its children, itself first; empty while it is down. Linux only."""
        pids, parents = list[int](), [self.pid]
        while parents:
            parent = parents.pop(0)
            with suppress(OSError):  # it has ended
                children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
                parents += map(int, children)
                pids += map(int, children)
        return pids

    def exit_status(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._process.poll() if self._process else 0

    def request_stop(self) -> None:
        """Request a stop, without waiting for it."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def stop(self) -> int:
        """Stop it, kill it after its grace period; return the exit status."""
        if self._process is None:
            return 0
        self.request_stop()
        try:
            return self._process.wait(self.grace + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def rotate(self, limit: int) -> None:
        """Rotate a log of more than `limit` bytes to `<log>.1`, which is overwritten."""
        if self.log is None or not self.log.exists() or self.log.stat().st_size <= limit:
            return
        shutil.copyfile(self.log, self.log.with_name(self.log.name + ".1"))
        os.truncate(self.log, 0)  # the process appends, so it continues at the start of the file
        self._log_start = 0

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of its log since the latest start."""
        if self.log is None or not self.log.exists():
            return ""
        text = self.log.read_bytes()[self._log_start :].decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def run_as(user: str | None, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as another user (None: as the current one), and capture its output."""
    options = ["--user", user] if user else []
    supervised = [sys.executable, "-I", "-S", str(REAPER), *options, "--", *map(str, command)]
    reader, writer = os.pipe()  # stays open until the command is done: the reaper ends it when its input ends
    try:
        return subprocess.run(  # noqa: S603
            supervised, stdin=reader, capture_output=True, text=True, check=False
        )
    finally:
        os.close(reader)
        os.close(writer)
