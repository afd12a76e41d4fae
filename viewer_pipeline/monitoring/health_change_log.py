"""Logs when the status of a check changes, also where nobody requests `/health`."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable

from viewer_pipeline.checks import CheckResult, Status
from viewer_pipeline.logs import event
from viewer_pipeline.monitoring.check_runner import CheckRunner
from viewer_pipeline.monitoring.status_page.oldest_pending import OldestPendingHistory

log = logging.getLogger("viewer_pipeline.health")

WATCH_SECONDS = 10.0
LEVELS: dict[Status, int] = {
    "healthy": logging.INFO,
    "unknown": logging.DEBUG,  # because of another check, which is logged
    "degraded": logging.WARNING,
    "unhealthy": logging.ERROR,
}


class HealthChangeLog:
    """Runs all checks every WATCH_SECONDS, on a thread of its own; keeps how old pending views were."""

    def __init__(self, checks: CheckRunner, is_starting_or_stopping: Callable[[], bool]) -> None:
        self._checks, self._is_starting_or_stopping = checks, is_starting_or_stopping
        self.oldest_pending = OldestPendingHistory()
        self._statuses: dict[str, Status] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health-watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()

    def log_changes(self, results: list[CheckResult]) -> None:
        """Log every status that differs from the last one, and a first one that is not healthy.

        Nothing during a start of `up` or a stop. Checks with the same message share a line. One that becomes unknown,
        or healthy again from that, is not news.
        """
        if self._is_starting_or_stopping():
            return
        changed = defaultdict[tuple[int, Status, str], list[str]](list)
        for result in results:
            before = self._statuses.get(result.name, "healthy")
            if result.status != before:
                is_news = result.status != "healthy" or before != "unknown"
                level = LEVELS[result.status] if is_news else logging.DEBUG
                changed[level, result.status, result.message].append(result.name)
            self._statuses[result.name] = result.status
        for (level, status, message), names in changed.items():
            log.log(level, event("health_changed", checks=", ".join(names), status=status, message=message))

    def _run(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            results = self._checks.run_in_parallel()
            self.oldest_pending.add(results)
            self.log_changes(results)
