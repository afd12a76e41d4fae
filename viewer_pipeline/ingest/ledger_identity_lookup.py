"""The identity of the ledger in this worker's database, read on a thread: PostgreSQL may take long to answer."""

from __future__ import annotations

import logging
import threading

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_identity import NO_LEDGER, LedgerIdentity
from viewer_pipeline.logs import event
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.settings import Settings

log = logging.getLogger("viewer_pipeline.ledger_lookup")

RETRY_SECONDS = 1.0


class LedgerIdentityLookup:
    """The identity of the ledger, once PostgreSQL has answered; until then only the place of its database."""

    def __init__(self, settings: Settings) -> None:
        place = PostgresUrl.of(settings.require_database_url()).place
        self.identity: LedgerIdentity = NO_LEDGER._replace(place=place)
        self.changed = threading.Event()  # set where the identity has changed; the reader clears it
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

    def request_stop(self) -> None:
        """Let the thread end after the attempt that is under way; does not wait for it."""
        self._stop.set()
        self._requested.set()

    def _run(self) -> None:
        failed = False
        while self._requested.wait() and not self._stop.is_set():
            try:
                with self._ledger.connect(any_server=True) as connection:
                    identity = self._ledger.identity(connection)
            except ViewerPipelineError as error:
                if not failed:
                    log.warning(event("ledger_identity_unreadable", reason=error, remedy=error.remedy))
                failed = True
                self._stop.wait(RETRY_SECONDS)
                continue
            failed = False
            self._requested.clear()
            if identity != self.identity:
                self.identity = identity
                self.changed.set()
