"""The signals that ask a process to stop: SIGTERM, SIGINT, and SIGHUP, which a closed terminal sends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType

from viewer_pipeline.standard_streams import limit_waits

BURST_SECONDS = 0.5  # signals within this time of the first request are the same request


class StopRequest:
    """Whether a stop was asked for; for one thread that waits, and a signal handler that sets it.

    No Event: its lock is not re-entrant, and the handler runs on the thread that waits. A signal that comes while that
    thread holds the lock, as it does for a moment in each `wait`, would make the handler wait for itself for ever.
    """

    def __init__(self) -> None:
        self._asked = False
        self._queue: SimpleQueue[None] = SimpleQueue()  # its `put` is made for handlers

    def set(self) -> None:
        """Ask. Safe to call in a signal handler."""
        self._asked = True
        self._queue.put(None)

    def is_set(self) -> bool:
        """Whether it was asked for."""
        return self._asked

    def wait(self, timeout: float) -> bool:
        """Wait until it is asked for, at most so many seconds; return whether it was."""
        if not self._asked:
            with suppress(Empty):
                self._queue.get(timeout=timeout)
        return self._asked


def handle_stop_signals(
    begin: Callable[[int], None],
    at_once: Callable[[int], None] = lambda number: os._exit(128 + number),
    requests: Sequence[int] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Call `begin` with the first signal, and `at_once` when somebody asks again by one of `requests`.

    SIGHUP begins a stop too, but is never counted as a request, neither the first nor the second: a terminal that is
    closed sends it twice (the kernel, then the shell), and systemd sends it together with SIGTERM. A burst of requests
    is one request for a like reason: `timeout`, and parents that pass on a Ctrl-C, deliver it twice. SIGHUP stays
    ignored where it was ignored at the start, as under nohup.

    Both are called between any two steps of the main thread, so they must not wait for a lock that it may hold.
    """
    begun, requested = False, float("inf")

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal begun, requested
        now = time.monotonic()
        if number != signal.SIGHUP:
            if now - requested > BURST_SECONDS:
                at_once(number)
                return
            requested = min(requested, now)
        if not begun:
            begun = True
            limit_waits()
            begin(number)

    for number in requests:
        signal.signal(number, on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, on_signal)
