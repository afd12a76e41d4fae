"""The lease of a run: of all processes that a task of Celery may reach, the one that executes the run has it.

It is a row in Dagster's storage, with the time of that server: no run can continue without it anyway, whereas a broker
may lose what it has. The process of the run renews it; a lease that was not renewed shows that
the process has ended, or cannot be reached, on whatever machine it is.

Nothing of what is counted depends on it: a run that continues without its lease is exact as well.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.storage_engine import engine_of
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.this_process import name_this_process

log = logging.getLogger("viewer_pipeline.run_lease")

SQL = named_queries(__name__)

RENEW_SECONDS = 3.0
LEASE_SECONDS = 15.0  # without a renewal. Five may fail, or be late on a busy machine
RELEASE_SECONDS = 2.0  # how long the end of a run waits for a renewal under way


@dataclass(frozen=True)
class LeaseHolder:
    """Who has a lease, and how long ago it was renewed."""

    name: str
    seconds: float

    @property
    def is_expired(self) -> bool:
        """Whether its process has ended or cannot be reached."""
        return self.seconds > LEASE_SECONDS


@dataclass(frozen=True)
class RunLease:
    """The lease of one run, for one process that may take it."""

    settings: Settings
    run_id: str
    holder: str = field(default_factory=name_this_process)
    _token: str = field(default_factory=lambda: str(uuid4()))

    def claim(self) -> bool:
        """Take the lease, also one that has expired; return whether this process has it now. Atomic."""
        return self._execute("claim", seconds=LEASE_SECONDS) is not None

    def renew(self) -> bool:
        """Renew it; return False if it was lost."""
        return self._execute("renew") is not None

    def release(self) -> None:
        """End it, if this process has it."""
        self._execute("release")

    def read_holder(self) -> LeaseHolder | None:
        """Return who has it, whether or not it has expired; None if nobody does."""
        row = self._execute("read")
        return LeaseHolder(*row) if row else None

    def end_if_expired(self) -> bool:
        """End a lease that has expired, of any holder; return whether there was one."""
        return self._execute("end_if_expired", seconds=LEASE_SECONDS) is not None

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease by a thread. A process that finds it lost is killed: its run was reported as failed.

        While the storage does not answer it is not lost: then nobody else can report anything either.
        """
        stop = Event()
        thread = Thread(target=self._renew_until, args=[stop], name="run-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(RELEASE_SECONDS)

    def _renew_until(self, stop: Event) -> None:
        while not stop.wait(RENEW_SECONDS):
            with suppress(SQLAlchemyError, psycopg.Error):
                if not self.renew():
                    log.error(event("run_lease_lost", run_id=self.run_id))
                    os.kill(os.getpid(), signal.SIGKILL)

    def _execute(self, query: str, **parameters: Any) -> tuple[Any, ...] | None:
        """Execute a query on a connection of Dagster's storage; return its row, if it has one."""
        names = {"key": f"viewer_pipeline/run_lease/{self.run_id}", "token": self._token, "holder": self.holder}
        with engine_of(self.settings).connect() as connection:
            driver: psycopg.Connection = connection.connection.driver_connection  # type: ignore[assignment] # untyped
            cursor = driver.execute(SQL[query], names | parameters)
            return cursor.fetchone() if cursor.description else None
