"""The signals that ask a process to stop: SIGTERM, SIGINT, and SIGHUP, which a closed terminal sends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

from viewer_pipeline.standard_streams import limit_waits

BURST_SECONDS = 0.5  # signals within this time of the first request are the same request


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
