"""The identity of the ledger in this worker's database, read on a thread: PostgreSQL may take long to answer."""

from __future__ import annotations

import logging
import threading

from viewer_pipeline.errors import TransientError, ViewerPipelineError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_identity import NO_LEDGER, LedgerIdentity
from viewer_pipeline.logs import event
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.settings import Settings

log = logging.getLogger("viewer_pipeline.ledger_lookup")

RETRY_SECONDS = 1.0


class LedgerUnreadable(TransientError):
    """The ledger cannot be read, so it is not known whether these counters belong to it"""


class LedgerIdentityLookup:
    """The identity of the ledger, once PostgreSQL has answered; until then only the place of its database."""

    def __init__(self, settings: Settings) -> None:
        place = PostgresUrl.of(settings.require_database_url()).place
        self.identity: LedgerIdentity = NO_LEDGER._replace(place=place)
        self.changed = threading.Event()  # set where the identity has changed; the reader clears it
        self.error: ViewerPipelineError | None = None  # of the last attempt
        self._ledger = Ledger.of(settings)
        self._requested, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-lookup", daemon=True)

    def start(self, seconds: float) -> None:
        """Read it on the thread, again and again until PostgreSQL answers; wait at most so long for that."""
        self._requested.set()
        self._thread.start()
        self.changed.wait(seconds)

    def request_refresh(self) -> None:
        """Read it once more: the database may have been replaced."""
        self._requested.set()

    def require_readable(self) -> None:
        """Raise LedgerUnreadable, with the reason, if PostgreSQL answered the last attempt with an error.

        One that may pass by itself, such as a server that is out of reach, is no answer.
        """
        if (error := self.error) is not None and not isinstance(error, TransientError):
            raise LedgerUnreadable(str(error), error.remedy)

    def request_stop(self) -> None:
        """Let the thread end after the attempt that is under way; does not wait for it."""
        self._stop.set()
        self._requested.set()

    def _run(self) -> None:
        while self._requested.wait() and not self._stop.is_set():
            try:
                with self._ledger.connect(any_server=True) as connection:
                    identity = self._ledger.identity(connection)
            except ViewerPipelineError as error:
                if self.error is None:
                    log.warning(event("ledger_identity_unreadable", reason=error, remedy=error.remedy))
                self.error = error
                self._stop.wait(RETRY_SECONDS)
                continue
            self.error = None
            self._requested.clear()
            if identity != self.identity:
                self.identity = identity
                self.changed.set()
