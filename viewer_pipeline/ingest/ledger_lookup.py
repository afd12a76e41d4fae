"""Which ledger this worker's database has, asked on a thread of its own: PostgreSQL may take long to answer."""

from __future__ import annotations

import logging
import threading

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.identity import NO_LEDGER, LedgerIdentity
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.logs import event
from viewer_pipeline.postgres_url import PostgresUrl

log = logging.getLogger("viewer_pipeline.own_ledger")

RETRY_SECONDS = 1.0


class LedgerLookup:
    """The identity of the ledger, once PostgreSQL has answered; until then only the place of its database."""

    def __init__(self, url: str) -> None:
        self.identity: LedgerIdentity = NO_LEDGER._replace(place=PostgresUrl.of(url).place)
        self.changed = threading.Event()  # the identity is another one since somebody cleared this
        self._ledger = Ledger(url)
        self._wanted, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="own-ledger", daemon=True)

    def start(self) -> None:
        """Begin to ask, again and again until there is an answer."""
        self._wanted.set()
        self._thread.start()

    def ask_again(self) -> None:
        """Ask once more: the database may have been replaced."""
        self._wanted.set()

    def wait(self, seconds: float) -> None:
        """Wait at most so long for the first answer."""
        if not self.identity.ledger_id:
            self.changed.wait(seconds)

    def close(self) -> None:
        """End the thread, once the question that is under way has ended."""
        self._stop.set()
        self._wanted.set()

    def _run(self) -> None:
        complained = False
        while self._wanted.wait() and not self._stop.is_set():
            try:
                with self._ledger.connect(any_server=True) as connection:
                    identity = self._ledger.identity(connection)
            except ViewerPipelineError as error:
                if not complained:
                    log.warning(event("cannot read which ledger this is", reason=error))
                complained = True
                self._stop.wait(RETRY_SECONDS)
                continue
            complained = False
            self._wanted.clear()
            if identity != self.identity:
                self.identity = identity
                self.changed.set()
