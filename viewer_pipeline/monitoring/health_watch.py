"""The log tells when a check changes its state, also where nobody asks for `/health`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from viewer_pipeline.logs import event
from viewer_pipeline.monitoring.checks import Checks, Results, State

log = logging.getLogger("viewer_pipeline.health")

WATCH_SECONDS = 10.0
LEVELS: dict[State, int] = {"healthy": logging.INFO, "degraded": logging.WARNING, "unhealthy": logging.ERROR}


class HealthWatch:
    """Asks all checks every WATCH_SECONDS, on a thread of its own."""

    def __init__(self, checks: Checks, stopping: Callable[[], bool]) -> None:
        self._checks, self._stopping = checks, stopping
        self._states: dict[str, State] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health-watch", daemon=True)

    def start(self) -> None:
        """Start to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stop.set()

    def look(self, results: Results) -> None:
        """Log what is not as it was. What is healthy at first is no news, nor what a stop brings about."""
        if self._stopping():
            return
        for name, result in results.items():
            if result.state != self._states.get(name, "healthy"):
                log.log(LEVELS[result.state], event("health", check=name, state=result.state, said=result.said))
            self._states[name] = result.state

    def _run(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            self.look(self._checks.results())
