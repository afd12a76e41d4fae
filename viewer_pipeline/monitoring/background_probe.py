"""Probes of servers that may never answer: each runs on a thread of its own, and the caller limits its wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.logs import event
from viewer_pipeline.redaction import without_password

log = logging.getLogger("viewer_pipeline.probe")

MIN_INTERVAL_SECONDS = 0.5  # a younger result is used again: limits what a flood of requests costs the servers

T = TypeVar("T")


@dataclass(frozen=True)
class ProbeResult(Generic[T]):
    """A value; or None and the error, as a sentence without a password."""

    value: T | None
    error: str = ""


class BackgroundProbe(Generic[T]):
    """Runs `read` on a thread. At most one call runs at a time, so a server that hangs piles nothing up.

    A call that hangs is not interrupted. It ends when its server continues, when the connection breaks, or when the
    client times out. The next call opens a new connection.
    """

    def __init__(self, name: str, read: Callable[[], T]) -> None:
        self.name = name
        self._read = read
        self._changed = threading.Condition()
        self._started: float | None = None  # when the call that runs now began
        self._result: ProbeResult[T] = ProbeResult(None, "no result yet")
        self._ended = float("-inf")
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"probe {name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread as soon as no call runs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def refresh(self) -> None:
        """Begin a call, unless one runs or the last result is young enough."""
        with self._changed:
            now = time.monotonic()
            if self._started is None and now - self._ended >= MIN_INTERVAL_SECONDS:
                self._started = now
                self._changed.notify_all()

    def result(self, seconds: float) -> ProbeResult[T]:
        """Return the last result; wait for the call that runs until `seconds` after its start, then return an error.

        A call that has exceeded its time is not waited for again: a server that hangs delays one request, not all.
        """
        with self._changed:
            if self._started is not None:
                remaining = max(0.0, self._started + seconds - time.monotonic())
                self._changed.wait_for(lambda: self._started is None, remaining)
            if self._started is None:
                return self._result
            return ProbeResult(None, f"no answer for {time.monotonic() - self._started:.1f} s")

    def _run(self) -> None:
        while self._wait_for_refresh():
            result = self._call()
            with self._changed:
                self._result, self._ended, self._started = result, time.monotonic(), None
                self._changed.notify_all()

    def _wait_for_refresh(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._started is not None)
            return not self._closed

    def _call(self) -> ProbeResult[T]:
        try:
            return ProbeResult(self._read())
        except ViewerPipelineError as error:
            return ProbeResult(None, without_password(str(error)))
        except Exception as error:  # a bug must not silence the check, nor expose a traceback over HTTP
            log.exception(event("a probe failed", name=self.name))
            return ProbeResult(None, f"the probe failed ({type(error).__name__}); see the log of this process")


def refresh_all(probes: list[BackgroundProbe[T]], seconds: float) -> list[ProbeResult[T]]:
    """Run all probes side by side and return their results, within `seconds` for all together."""
    for probe in probes:
        probe.refresh()
    return [probe.result(seconds) for probe in probes]
