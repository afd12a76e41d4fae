"""Probes of servers that may never answer: each runs on a thread of its own, and the caller limits its wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.logs import event
from viewer_pipeline.redaction import redact_text

log = logging.getLogger("viewer_pipeline.probe")

MIN_INTERVAL_SECONDS = 0.5  # a younger result is used again: limits what a flood of requests costs the servers

T = TypeVar("T")


@dataclass(frozen=True)
class ProbeResult(Generic[T]):
    """A value; or None and the error, as a sentence without a password, and its remedy if there is a specific one."""

    value: T | None
    error: str = ""
    remedy: str = ""

    def with_better_remedy(self, find: Callable[[], str]) -> ProbeResult[T]:
        """Return a failed result with the remedy that `find` returns, unless that is empty."""
        return replace(self, remedy=find() or self.remedy) if self.value is None else self


class BoundedProbe(Generic[T]):
    """Runs `read` on a thread. At most one call runs at a time, so a server that hangs piles nothing up.

    A call that hangs is not interrupted. It ends when its server continues, when the connection breaks, or when the
    client times out. The next call opens a new connection.
    """

    def __init__(self, name: str, read: Callable[[], T]) -> None:
        self.name = name
        self._read = read
        self._lock = threading.Lock()
        self._call: Future[ProbeResult[T]] = Future()  # the one that runs now, or the last one
        self._call.set_result(ProbeResult(None, "no result yet"))
        self._started = self._ended = float("-inf")

    @property
    def last_result(self) -> ProbeResult[T] | None:
        """The result of the last call; None while one runs."""
        call = self._call
        return call.result() if call.done() else None

    def start_if_due(self, interval_seconds: float = 0.0) -> None:
        """Begin a call, unless one runs or the last result is younger than that, and than MIN_INTERVAL_SECONDS."""
        with self._lock:
            interval_seconds = max(interval_seconds, MIN_INTERVAL_SECONDS)
            if self._call.done() and time.monotonic() - self._ended >= interval_seconds:
                self._call, self._started = Future(), time.monotonic()
                thread = threading.Thread(target=self._run, args=(self._call,), name=f"probe {self.name}", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # this process may not have more threads
                    self._call.set_result(ProbeResult(None, f"the probe was not started: {error}"))

    def wait_for_result(self, seconds_after_start: float) -> ProbeResult[T]:
        """Return the last result; wait for a running call until then, else return an error.

        A call that has exceeded its time is not waited for again: a server that hangs delays one request, not all.
        """
        with self._lock:
            call, started = self._call, self._started
        try:
            return call.result(max(0.0, started + seconds_after_start - time.monotonic()))
        except TimeoutError:
            return ProbeResult(None, f"no answer for {time.monotonic() - started:.1f} s")

    def _run(self, call: Future[ProbeResult[T]]) -> None:
        result = self._read_result()
        self._ended = time.monotonic()
        call.set_result(result)

    def _read_result(self) -> ProbeResult[T]:
        try:
            return ProbeResult(self._read())
        except ViewerPipelineError as error:
            return ProbeResult(None, redact_text(str(error)), redact_text(error.remedy))
        except Exception as error:  # a bug must not silence the check, nor expose a traceback over HTTP
            log.exception(event("probe_failed", name=self.name))
            return ProbeResult(None, f"the probe failed ({type(error).__name__}); see the log of this process")
