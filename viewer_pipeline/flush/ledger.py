"""The ledger: one PostgreSQL database with its flushes and totals, and the target table if there is one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from copy import copy
from typing import Self
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg

from viewer_pipeline.errors import PostgresRefusesWrites, TransientError
from viewer_pipeline.flush import transaction
from viewer_pipeline.flush.ledger_identity import LedgerIdentity, read_identity
from viewer_pipeline.flush.ledger_reads import last_flush, read_commit_state
from viewer_pipeline.flush.ledger_row_types import HOLD, Flush, LastFlush, Upsert
from viewer_pipeline.flush.standby_wait import StandbyWait
from viewer_pipeline.logs import event
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.kept_connections import KeptConnections
from viewer_pipeline.stores.postgres import (
    IN_RECOVERY,
    READ_ONLY,
    open_connection,
    read_only_reason,
)
from viewer_pipeline.stores.postgres_errors import first_line, is_connection_lost, postgres_errors
from viewer_pipeline.streams import WHOLE, Stream
from viewer_pipeline.target.add_or_park import FetchTotals, add_to_target, is_row_error, upsert_bisecting
from viewer_pipeline.target.table import Target, TargetNames, find_target

log = logging.getLogger("viewer_pipeline.ledger")


class Ledger:
    """The ledger of one database. Its connections live for one use, or as long as `keeping_connections` lasts."""

    def __init__(
        self,
        url: str,
        target: TargetNames | None = None,
        standby_wait: StandbyWait = StandbyWait(),  # noqa: B008 - frozen
    ) -> None:
        self.url = url
        self.stream = WHOLE  # in which it commits
        self.target_names = target
        self.standby_wait = standby_wait
        self._parsed_url = PostgresUrl.of(url)
        self._targets = WeakKeyDictionary[psycopg.Connection, Target]()
        self._kept: KeptConnections | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the ledger, and the target table, that the settings name. It connects when it is used."""
        return cls(settings.require_database_url(), TargetNames.of(settings), StandbyWait.of(settings))

    @property
    def place(self) -> str:
        """Host, port and name of the database, for people."""
        return self._parsed_url.place

    def of_stream(self, stream: Stream) -> Self:
        """Return the same ledger, which commits in this stream."""
        ledger = copy(self)
        ledger.stream = stream
        return ledger

    def last_flush(self, connection: psycopg.Connection) -> LastFlush:
        """Return the newest flush of the stream."""
        return last_flush(connection, self.stream)

    @contextmanager
    def keeping_connections(self) -> Iterator[Self]:
        """Open the same ledger with connections that stay open between two uses."""
        ledger = copy(self)
        with closing(KeptConnections(self._parsed_url)) as kept:
            ledger._kept = kept  # noqa: SLF001 - a copy of this ledger
            yield ledger

    def close_idle_connections(self) -> None:
        """Close those that are kept and not used now. The next use opens a new one."""
        if self._kept is not None:
            self._kept.close()

    @contextmanager
    def connect(self, *, any_server: bool = False, new: bool = False) -> Iterator[psycopg.Connection]:
        """Open an autocommit connection with finite waits; errors of the driver inside are raised as ours.

        Raises PostgresRefusesWrites on a standby or a read-only server, whose ledger may differ from the primary's;
        `any_server` allows reads from them. `new`: to where the address leads now, not one that was kept.
        """
        kept = None if new else self._kept
        with postgres_errors(self.url), kept.lend() if kept else open_connection(self._parsed_url) as connection:
            if not any_server and (reason := read_only_reason(connection)):
                raise PostgresRefusesWrites(f"{redact_text(self.url)}: {reason}")
            yield connection

    def commit(self, connection: psycopg.Connection, flush: Flush, upsert: Upsert | None = None) -> FetchTotals | None:
        """Commit the flush and its totals, or `upsert` in their place, in one transaction; return how to fetch totals.

        None if another run committed first; nothing was written then. A COMMIT whose reply was lost is resolved by
        looking the flush_id up on a new connection (rule R8); there are no totals then. If that fails as well, raises
        PostgresUnavailable or PostgresRefusesWrites: the next attempt finds its flush in the ledger, or does not.
        """
        try:
            if upsert is not None:
                return transaction.commit_flush(connection, flush, upsert)
            return self._commit(connection, flush)
        except psycopg.Error as error:
            if is_connection_lost(error) and self.has_committed(flush.flush_id):
                log.warning(event("commit_reply_lost", seq=flush.seq, reason=first_line(error)))
                return dict
            raise

    def target(self, connection: psycopg.Connection) -> Target | None:
        """Return the target table, looked up once for a connection; None if none is configured. Raises TargetUnusable.

        After an error there is another connection: the table may be altered by then.
        """
        if self.target_names is None:
            return None
        if (target := self._targets.get(connection)) is None:
            with connection.transaction():  # where the search_path of the URL holds, also through PgBouncer
                target = self._targets[connection] = find_target(connection, self.target_names)
        return target

    def identity(self, connection: psycopg.Connection) -> LedgerIdentity:
        """Return the identity of this ledger."""
        return read_identity(connection, self.place)

    def has_committed(self, flush_id: UUID) -> bool:
        """Return whether a flush was committed. Raises PostgresRefusesWrites if this server cannot know it."""
        with self.connect(any_server=True, new=True) as connection:
            state = read_commit_state(connection, str(flush_id))
        if state.standby or state.read_only:
            reason = IN_RECOVERY if state.standby else READ_ONLY
            where = redact_text(self.url)
            raise PostgresRefusesWrites(f"{where}: {reason}, so whether flush {flush_id} was committed is not known")
        return state.committed

    def require_standbys(self, connection: psycopg.Connection) -> None:
        """Raise NotReplicated, or SettingsError, if what is committed now could not be settled (rule R18)."""
        self.standby_wait.require_connected(connection, self.url)

    def wait_for_standbys(self, connection: psycopg.Connection, seq: int, flush_id: UUID | str) -> None:
        """Wait until standbys have a committed flush, and all before it, on disk; only then it may be settled (R18).

        Returns at once if no wait is configured. Raises NotReplicated on a time-out, MarkerMoved if the server behind
        this connection lacks the flush, SettingsError if it does not show its standbys.
        """
        self.standby_wait.wait_until_replicated(connection, self.url, seq, flush_id)

    def _commit(self, connection: psycopg.Connection, flush: Flush) -> FetchTotals | None:
        """Try the common case first: every row takes its views."""
        if flush.mode == HOLD:
            return transaction.commit_flush(connection, flush, transaction.hold_views)
        target = self.target(connection)
        if target is None:
            return transaction.commit_to_totals(connection, flush)

        def add_to_both(connection: psycopg.Connection, flush: Flush) -> FetchTotals:
            parked = add_to_target(connection, target, flush.seq, flush.counters)
            return transaction.add_to_totals_fast(connection, flush, parked)

        try:
            return transaction.commit_flush(connection, flush, add_to_both)
        except psycopg.Error as error:
            if not is_row_error(error):
                raise
            log.warning(event("target_rows_refused", seq=flush.seq, reason=first_line(error)))
        return transaction.commit_flush(connection, flush, lambda c, f: upsert_bisecting(c, target, f.seq, f.counters))


def require_target(settings: Settings) -> None:
    """Raise TargetUnusable if the target table of the settings cannot be used.

    If PostgreSQL is unreachable now, every run checks again.
    """
    ledger = Ledger.of(settings)
    if ledger.target_names is None:
        return
    try:
        with ledger.connect(any_server=True) as connection:
            ledger.target(connection)
    except TransientError:
        return


def require_standby_support(settings: Settings) -> None:
    """Raise SettingsError if the PostgreSQL of the settings cannot honour POSTGRES_WAIT_STANDBYS.

    If it is unreachable now, every run checks again.
    """
    ledger = Ledger.of(settings)
    if not ledger.standby_wait.required:
        return
    try:
        with ledger.connect(any_server=True) as connection:
            ledger.standby_wait.require_support(connection, ledger.url)
    except TransientError:
        return
