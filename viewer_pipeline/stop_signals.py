"""The signals that ask a process to stop: SIGTERM, SIGINT, and SIGHUP, which a closed terminal sends."""

from __future__ import annotations

import os
import select
import signal
import time
import weakref
from collections.abc import Callable, Sequence
from types import FrameType

from viewer_pipeline.broken_stream_tolerance import limit_write_waits

BURST_SECONDS = 0.5  # signals within this time of the first request are the same request


class StopRequest:
    """Whether a stop was requested: for one thread that waits, and a signal handler that sets it.

    A pipe, because it has no lock: the handler runs on the thread that waits. With an Event, a signal that comes while
    that thread holds its lock makes the handler wait for itself; and SimpleQueue.get() waits without an end where its
    timeout passes before the wait begins (CPython 3.11).
    """

    def __init__(self) -> None:
        self._requested = False
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):
            weakref.finalize(self, os.close, descriptor)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    def set(self) -> None:
        """Request a stop. Safe to call in a signal handler."""
        if not self._requested:
            self._requested = True
            os.write(self._writer, b"\0")

    def is_set(self) -> bool:
        """Whether a stop was requested."""
        return self._requested

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until a stop is requested, at most `timeout_seconds`; return whether it was."""
        if not self._requested:
            self._poll.poll(timeout_seconds * 1000)
        return self._requested


def install_stop_signal_handlers(
    begin_stop: Callable[[int], None],
    exit_now: Callable[[int], None] = lambda number: os._exit(128 + number),
    counted_signals: Sequence[int] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Call `begin_stop` at the first signal, and `exit_now` at a later one of `counted_signals`.

    SIGHUP begins a stop too, but is never counted as a request, neither the first nor the second: a terminal that is
    closed sends it twice (the kernel, then the shell), and systemd sends it together with SIGTERM. A burst of requests
    counts as one for a similar reason: `timeout`, and parents that pass on a Ctrl-C, deliver it twice. SIGHUP stays
    ignored where it was ignored at the start, as under nohup.

    Both are called between any two steps of the main thread, so they must not wait for a lock that it may hold.
    """
    begun, first_request = False, float("inf")

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal begun, first_request
        now = time.monotonic()
        if number != signal.SIGHUP:
            if now - first_request > BURST_SECONDS:
                exit_now(number)
                return
            first_request = min(first_request, now)
        if not begun:
            begun = True
            limit_write_waits()
            begin_stop(number)

    for number in counted_signals:
        signal.signal(number, on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, on_signal)
