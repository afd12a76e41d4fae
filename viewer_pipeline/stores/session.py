"""Connections whose settings are ours, also behind a pooler that gives every transaction another session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Self

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from viewer_pipeline.errors import SessionUnusable
from viewer_pipeline.session_settings import NOT_IN_ALL_VERSIONS
from viewer_pipeline.stores.cancellation_between_statements import raise_if_canceled
from viewer_pipeline.stores.named_queries import named_queries

SQL = named_queries(__name__)

NO_PROCESS = 0  # no session has this process id


class Session(psycopg.Connection[TupleRow]):
    """A connection whose settings hold for its session or, through a pooler, for each of its transactions."""

    role = ""  # whose rights count: a login may take another one (ALTER ROLE … SET role)
    local_settings: Mapping[str, str] = MappingProxyType({})  # for each transaction

    def set_settings(self, settings: Mapping[str, str]) -> None:
        """Set them for the session. Through a pooler, set them in each transaction from now on.

        A pooler names another process to its client than the session's own. It may give the session to other clients
        between two transactions, and must not get a setting that outlives one. Raises SessionUnusable.
        """
        if not self._set(settings, self.info.backend_pid):
            self.set_settings_of_transactions(settings)

    def set_settings_of_transactions(self, settings: Mapping[str, str]) -> None:
        """Set them in each transaction from now on, and run every statement in one."""
        self.local_settings = settings
        self.prepare_threshold = None  # a prepared statement belongs to one session

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """Begin a transaction, or a savepoint in it, with the settings in force."""
        begins = self.info.transaction_status == TransactionStatus.IDLE
        with super().transaction(savepoint_name, force_rollback) as transaction:
            if begins and self.local_settings:
                self._set(self.local_settings, NO_PROCESS)
            yield transaction

    @contextmanager
    def settings_in_force(self) -> Iterator[None]:
        """Begin a transaction for the statement inside, if it depends on that and there is none."""
        if not self.local_settings or self.info.transaction_status != TransactionStatus.IDLE:
            yield
        elif self.autocommit:
            with self.transaction():
                yield
        else:
            self._set(self.local_settings, NO_PROCESS)
            yield

    def _set(self, settings: Mapping[str, str], process: int) -> bool:
        """Set them for the session if it is of this process, else for the transaction; return whether it is."""
        parameters = {
            "names": [*settings],
            "values": [*settings.values()],
            "not_in_all_versions": [*NOT_IN_ALL_VERSIONS],
            "process": process,
        }
        row = psycopg.Cursor(self).execute(SQL["set_settings"], parameters).fetchone()
        assert row is not None, "it always returns one row"
        of_process, replication_role, self.role = row
        if replication_role == "replica":
            user, database = self.info.user, self.info.dbname
            raise SessionUnusable(
                "session_replication_role is replica, so triggers do not run and foreign keys are not checked. Let a"
                f" superuser reset it: ALTER DATABASE {database} RESET session_replication_role, or ALTER ROLE {user}"
                " RESET session_replication_role"
            )
        return bool(of_process)


class SessionCursor(psycopg.Cursor[TupleRow]):
    """Runs every statement with the settings of its Session in force, unless the run is canceled."""

    @contextmanager
    def _statement(self) -> Iterator[None]:
        assert isinstance(self.connection, Session), "its cursor_factory"
        raise_if_canceled()
        with self.connection.settings_in_force():
            yield

    def execute(self, *args: Any, **kwargs: Any) -> Self:
        """Run a statement."""
        with self._statement():
            return super().execute(*args, **kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        """Run a statement with each of several parameters."""
        with self._statement():
            super().executemany(*args, **kwargs)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[TupleRow]:
        """Run a query and yield its rows while they arrive."""
        with self._statement():
            yield from super().stream(*args, **kwargs)

    @contextmanager
    def copy(self, *args: Any, **kwargs: Any) -> Iterator[psycopg.Copy]:
        """Begin a COPY."""
        with self._statement(), super().copy(*args, **kwargs) as copy:
            yield copy
