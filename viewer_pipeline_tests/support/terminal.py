"""A terminal (pty) that a test opens, reads and closes; and the standard streams that a shell can give a command."""

from __future__ import annotations

import os
import pty
import select
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

# Makes the terminal, whose path is its first argument, the controlling one of a new session, and runs the rest there.
_IN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
terminal = os.open(sys.argv[1], os.O_RDWR)
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
for descriptor in range(3):
    os.dup2(terminal, descriptor)
os.close(terminal)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def shell(line: str) -> list[str]:
    """Return what to put in front of a command, so that a shell runs it as `line` says: "$@" is the command."""
    return ["sh", "-c", line, "sh"]


def standard_files(pid: int) -> list[Path]:
    """Return what a process has open as descriptors 0, 1 and 2. Only on Linux."""
    return [Path(f"/proc/{pid}/fd/{descriptor}").readlink() for descriptor in range(3)]


class Terminal:
    """A terminal whose output is written to a file. `close` does what closing its window does."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._master, self._slave = pty.openpty()
        self.prefix = [sys.executable, "-I", "-S", "-c", _IN_TERMINAL, os.ttyname(self._slave)]
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read)

    def close(self) -> None:
        """Hang up: the kernel sends SIGHUP to what runs in it, and writes to it fail from now on."""
        if not self._closing.is_set():
            self._closing.set()
            self._reader.join()
            os.close(self._slave)
            os.close(self._master)

    def __enter__(self) -> Self:
        self.log.touch()  # tests read it before the thread has opened it
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        """Not blocked in a read: a terminal is not closed before that returns."""
        with self.log.open("wb", buffering=0) as log:
            while not self._closing.is_set():
                if select.select([self._master], [], [], 0.05)[0]:
                    log.write(os.read(self._master, 65536).replace(b"\r\n", b"\n"))
