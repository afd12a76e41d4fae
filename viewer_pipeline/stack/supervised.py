"""Restarts one process whenever it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from viewer_pipeline.logs import event
from viewer_pipeline.stack.managed_process import ManagedProcess

log = logging.getLogger("viewer_pipeline.stack")

MIN_RESTART_SECONDS, MAX_RESTART_SECONDS = (
    1.0,
    30.0,
)  # pause before a restart; it doubles while the process keeps ending


@dataclass
class Supervised:
    """A process that is restarted when it ends, after a pause that grows while it keeps ending."""

    process: ManagedProcess
    pause: float = MIN_RESTART_SECONDS
    restart_at: float = 0.0  # monotonic; 0 while it runs
    started_at: float = 0.0
    before_restart: Callable[[], None] | None = None

    def poll(self) -> None:
        """Restart the process if it has ended and the pause is over."""
        now = time.monotonic()
        status = self.process.exit_status()
        if status is None:
            if now - self.started_at > MAX_RESTART_SECONDS:
                self.pause = MIN_RESTART_SECONDS
        elif not self.restart_at:
            log.error(event("process ended", name=self.process.name, status=status, log=self.process.log))
            self.restart_at = now + self.pause
            self.pause = min(self.pause * 2, MAX_RESTART_SECONDS)
        elif now >= self.restart_at:
            self._run_before_restart()
            self.process.start()
            self.started_at, self.restart_at = now, 0.0

    def _run_before_restart(self) -> None:
        if self.before_restart is not None:
            try:
                self.before_restart()
            except Exception:  # the process is restarted anyway
                log.exception(event("cleanup before a restart failed", name=self.process.name))
