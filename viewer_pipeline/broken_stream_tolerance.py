"""Standard streams that are closed, broken or not read: none of them may end or delay the work of a process."""

from __future__ import annotations

import io
import os
import select
import sys
import time
from contextlib import suppress
from typing import Any, ClassVar

STREAMS = ("stdin", "stdout", "stderr")  # in the order of their descriptors: 0, 1, 2
POLL_SECONDS = 0.1  # how often a write that waits for its reader checks whether the process is to stop
STOP_SECONDS = 1.0  # from the beginning of a stop; a write that has to wait any longer is dropped


def open_null_device_on_closed_streams() -> None:
    """Open the null device on each of the descriptors 0, 1 and 2 that is closed, and make Python's stream for it.

    Call it before anything else is opened. The next socket would get the lowest free number, which is that of the
    closed stream, and whatever is printed, also by libraries in C and by child processes, would be sent to the server.
    """
    for descriptor, name in enumerate(STREAMS):
        if not _is_open(descriptor):
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
            mode = "w" if descriptor else "r"
            stream = open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def tolerate_write_errors(*stream_names: str) -> None:
    """Let writes to these streams ("stdout", "stderr") succeed although nobody can read them any more.

    A terminal that was closed answers EIO, a pipe without a reader EPIPE, a full disk ENOSPC: what is written is
    dropped. A reader that does not read is waited for, but not during a stop: see `limit_write_waits`.
    """
    for name in stream_names:
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):
                stream.flush()
            options: dict[str, Any] = {"encoding": stream.encoding, "errors": stream.errors}
            lossy = io.BufferedWriter(_LossyFile(STREAMS.index(name), "wb", closefd=False))
            setattr(sys, name, io.TextIOWrapper(lossy, line_buffering=stream.line_buffering, **options))


def limit_write_waits() -> None:
    """From now on, let no write wait for its reader: the process stops. Safe to call in a signal handler."""
    _LossyFile.deadline = time.monotonic() + STOP_SECONDS


class _LossyFile(io.FileIO):
    """Drops what cannot be written."""

    deadline: ClassVar[float] = float("inf")  # of the clock `time.monotonic`, for all streams of the process

    def write(self, data: Any, /) -> int:
        """Write some of it, without blocking; return how much is done with. Raises nothing."""
        while self._wait_until_writable():
            try:
                written = super().write(memoryview(data)[: select.PIPE_BUF])  # so much fits in a pipe that is ready
            except OSError:
                break
            if written is not None:  # None: somebody made it non-blocking, and it is full again
                return written
        return len(data)

    def _wait_until_writable(self) -> bool:
        """Wait until it takes a write, or answers it with an error; False after the deadline."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        while not poll.poll(max(0.0, min(POLL_SECONDS, self.deadline - time.monotonic())) * 1000):
            if time.monotonic() >= self.deadline:
                return False
        return True


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
