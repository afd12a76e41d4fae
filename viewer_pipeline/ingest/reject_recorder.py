"""Rejected messages on their way to PostgreSQL: all are counted, a few of each reason are stored."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.rejects import Reject, record_message_rejects
from viewer_pipeline.logs import event

log = logging.getLogger("viewer_pipeline.rejections")

# Hostile input must not fill the database: a bound for all workers together, also over restarts.
MAX_ROWS_PER_REASON = 100
WRITE_SECONDS = 1.0


class RejectRecorder:
    """Takes rejects from the subscriber without making it wait, and records them on a thread of its own."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._waiting: list[Reject] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rejections", daemon=True)
        self.by_reason: Counter[str] = Counter()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Record what is waiting, once, and end the thread."""
        self._stop.set()
        self._thread.join(timeout=10)

    def count_and_queue(self, reject: Reject) -> None:
        """Count it, and queue it for the thread while it is one of the first of its reason."""
        with self._lock:
            self.by_reason[reject.reason] += 1
            if self.by_reason[reject.reason] <= MAX_ROWS_PER_REASON:
                self._waiting.append(reject)

    def _run(self) -> None:
        while not self._stop.wait(WRITE_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        with self._lock:
            rejects, self._waiting = self._waiting, []
        if not rejects:
            return
        try:
            with self._ledger.connect() as connection:
                record_message_rejects(connection, rejects, MAX_ROWS_PER_REASON)
        except ViewerPipelineError as error:
            log.warning(event("rejected messages not recorded", count=len(rejects), reason=error))
            with self._lock:
                self._waiting = rejects + self._waiting
        else:
            for reject in rejects:
                log.warning(event("rejected", source=reject.source, subject=reject.subject, reason=reject.reason))
