"""A child process that ends with its parent, however the parent ends; and its restarts."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from viewer_pipeline.logs import event

log = logging.getLogger("viewer_pipeline.stack")

REAPER = Path(__file__).with_name("reaper.py")
MIN_RESTART_SECONDS, MAX_RESTART_SECONDS = (
    1.0,
    30.0,
)  # pause before a restart; it doubles while the process keeps ending


def signal_processes(pids: Iterable[int], number: signal.Signals) -> bool:
    """Signal these processes, and return whether any of them was there."""
    hit = False
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            hit = True
    return hit


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
        grace_seconds: float = 10,
        user: str | None = None,
        has_input: bool = False,
    ) -> None:
        """Prepare it. `has_input`: its standard input is what `write_line` writes, else it has none."""
        self.name = name
        self.log = log
        self.grace_seconds = grace_seconds
        self._environment = environment
        options = ["--signal", stop_signal, "--grace", str(grace_seconds), *(["--input"] if has_input else [])]
        self._command = _reaper_command_line(user, command, *options)
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the command; again, if it has ended."""
        self.request_stop()
        with self.log.open("ab") if self.log else nullcontext() as output:
            self._log_start = output.tell() if output else 0
            self._process = subprocess.Popen(  # noqa: S603
                self._command,
                stdin=subprocess.PIPE,
                bufsize=0,  # else a line that was not read is written again at the close, which fails then
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,  # Ctrl-C in the terminal reaches the parent only, which stops all in order
            )

    @property
    def reaper_pid(self) -> int:
        """Process id of the reaper."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def descendant_pids(self) -> list[int]:
        """Return the process ids of the command and its children, itself first; empty while it is down. Linux only."""
        pids, parents = list[int](), [self.reaper_pid]
        while parents:
            parent = parents.pop(0)
            with suppress(OSError):  # it has ended
                children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
                parents += map(int, children)
                pids += map(int, children)
        return pids

    def write_line(self, text: str) -> None:
        """Write a line to its standard input; nothing if it has ended, is stopping or was not started."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.write(f"{text}\n".encode())

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
            return self._process.wait(self.grace_seconds + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def log_tail(self) -> str:
        """Return the last lines of its log since the latest start."""
        return log_tail(self.log, self._log_start) if self.log else ""


class Startable(Protocol):
    """A process that can be started again."""

    @property
    def name(self) -> str:
        """Its name in the log."""

    @property
    def log(self) -> Path | None:
        """The file that it writes to, if it has one."""

    def start(self) -> None:
        """Start it; again, if it has ended."""

    def exit_status(self) -> int | None:
        """Return the exit status, None while it runs."""


P = TypeVar("P", bound=Startable)


@dataclass
class RestartedProcess(Generic[P]):
    """A process that is restarted when it ends, after a pause that grows while it keeps ending."""

    process: P
    pause: float = MIN_RESTART_SECONDS
    restart_at: float = 0.0  # monotonic; 0 while it runs
    started_at: float = 0.0
    before_restart: Callable[[], None] = lambda: None

    def restart_if_ended(self) -> bool:
        """Restart the process if it has ended and the pause is over; return whether it was restarted."""
        now = time.monotonic()
        status = self.process.exit_status()
        if status is None:
            if now - self.started_at > MAX_RESTART_SECONDS:
                self.pause = MIN_RESTART_SECONDS
        elif not self.restart_at:
            log.error(
                event("process_ended", name=self.process.name, status=status, log=self.process.log or "foreground")
            )
            self.restart_at = now + self.pause
            self.pause = min(self.pause * 2, MAX_RESTART_SECONDS)
        elif now >= self.restart_at:
            try:
                self.before_restart()
            except Exception:  # the process is restarted anyway
                log.exception(event("restart_cleanup_failed", name=self.process.name))
            self.process.start()
            log.info(event("process_restarted", name=self.process.name))
            self.started_at, self.restart_at = now, 0.0
            return True
        return False


def rotate_log(path: Path, limit_bytes: int) -> None:
    """Rotate a log of more than `limit_bytes` to `<log>.1`, which is overwritten. What writes to it must append."""
    if path.exists() and path.stat().st_size > limit_bytes:
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)


def log_tail(path: Path, start: int = 0, lines: int = 15) -> str:
    """Return the last lines of a log after the byte `start`; of the whole log if it was rotated since."""
    if not path.exists():
        return ""
    written = path.read_bytes()
    text = written[start if start <= len(written) else 0 :].decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def run_as_user(user: str | None, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as another user (None: as the current one), and capture its output."""
    reader, writer = os.pipe()  # stays open until the command is done: the reaper ends it when its input ends
    try:
        supervised = _reaper_command_line(user, command)
        return subprocess.run(supervised, stdin=reader, capture_output=True, text=True, check=False)  # noqa: S603
    finally:
        os.close(reader)
        os.close(writer)


def _reaper_command_line(user: str | None, command: Sequence[str | Path], *options: str) -> list[str]:
    as_user = ["--user", user] if user else []
    return [sys.executable, "-I", "-S", str(REAPER), *options, *as_user, "--", *map(str, command)]
