"""A lock in Dagster's storage: of all `up` on the same servers, the one that holds it runs Dagster's daemon."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack, suppress
from datetime import datetime

import psycopg

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import DaemonRuns, SessionUnusable, TransientError
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.postgres import DAGSTER_STORAGE, open_connection
from viewer_pipeline.stores.postgres_errors import first_line, postgres_errors
from viewer_pipeline.this_process import name_this_process
from viewer_pipeline.time_formatting import format_timestamp

log = logging.getLogger("viewer_pipeline.stack")

SQL = named_queries(__name__)

LOCK_CLASS = 0x76696577  # any number: the first half of our advisory locks' names
SESSION_NAME = "viewer-pipeline up"  # how application_name begins; PostgreSQL cuts it after 63 bytes
CHECK_SECONDS = 5.0
REPLY_SECONDS = 5.0  # of a statement; without an answer, the connection is lost
RELEASE_SECONDS = 1.0  # of a stop


class DaemonLock:
    """Held as long as its connection lives: PostgreSQL releases it however `up` ends, also when its machine dies.

    A thread checks the connection. After a restart or failover of PostgreSQL, it takes the lock again. If another `up`
    was faster, both continue, and /health reports two daemons. Through a pooler nothing is locked.
    """

    def __init__(self, settings: Settings) -> None:
        self._text_of_url = settings.require_dagster_database_url()
        self._url = settings.dagster_storage_url()
        self._connection: psycopg.Connection | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_held, name="daemon-lock", daemon=True)

    def acquire(self) -> None:
        """Take the lock, and keep it until `release`. Raises DaemonRuns if another `up` has it, and our errors."""
        with postgres_errors(self._text_of_url, DAGSTER_STORAGE):
            holder = self._take()
        if holder:
            raise _build_refusal(holder)
        self._thread.start()

    def release(self) -> None:
        """Release the lock, if it is held. Idempotent. Where PostgreSQL does not answer, it ends with this process."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(RELEASE_SECONDS)

    def _take(self) -> str:
        """Take the lock on a new connection; return who has it instead, empty if nobody. Raises psycopg's errors."""
        with ExitStack() as unless_taken:
            connection = unless_taken.enter_context(open_connection(self._url, REPLY_SECONDS))
            if connection.local_settings:  # of a pooler: the session, and the lock with it, would outlive this process
                self._stop.set()
                return ""
            name = f"{SESSION_NAME}, {name_this_process()}"
            connection.execute(SQL["prepare_session"], {"name": name})
            if fetch_one(connection, SQL["take_lock"], lock_class=LOCK_CLASS) == (True,):
                unless_taken.pop_all()
                self._connection = connection
                return ""
            return _find_holder(connection)

    def _keep_held(self) -> None:
        last = ""
        while not self._stop.wait(CHECK_SECONDS):
            problem = self._check()
            if problem and problem != last:
                log.error(event("daemon_lock_lost", reason=problem))
            elif last and not problem:
                log.info(event("daemon_lock_retaken"))
            last = problem
        self._close()

    def _check(self) -> str:
        """Test the connection; without one, take the lock again. Return why it is not held, empty if it is."""
        try:
            if self._connection is None:
                return self._take()
            self._connection.execute(SQL["test_connection"])
        except (psycopg.Error, SessionUnusable) as error:
            self._close()
            return first_line(error)
        return ""

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def require_no_up_on_servers(settings: Settings) -> None:
    """Check that no `up` runs on these servers, of any VIEWER_HOME or machine. Raises DaemonRuns.

    An `up` through a pooler is not known, and none while PostgreSQL does not answer. A daemon that
    is not part of an `up` holds no lock, so that two may overlap while one replaces the other.
    """
    url = settings.require_dagster_database_url()
    with suppress(TransientError), postgres_errors(url, DAGSTER_STORAGE):
        with open_connection(settings.dagster_storage_url(), REPLY_SECONDS) as connection:
            holder = _find_holder(connection)
        if holder:
            raise _build_refusal(holder)


def _find_holder(connection: psycopg.Connection) -> str:
    """Return who holds the lock; empty if nobody does."""
    parameters = {"lock_class": LOCK_CLASS, "name": f"{SESSION_NAME}%"}
    holder = connection.execute(SQL["holder"], parameters).fetchone()
    return _describe_holder(*holder) if holder else ""


def _build_refusal(holder: str) -> DaemonRuns:
    return DaemonRuns(holder, f"stop it first; for an additional worker, run `{command_to_type('worker')}` here")


def _describe_holder(name: str, started: datetime | None, address: str | None) -> str:
    """Return who holds the lock. Time and address are visible only to roles with the rights of the holder's."""
    since = f" since {format_timestamp(started)}" if started else ""
    return f"{name}{since}" + (f", connected from {address}" if address else "")
