"""PostgreSQL: flushes, batches, totals, parked and rejected. Its queries are in ledger.sql."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, Self
from uuid import UUID

import psycopg
from psycopg import errors as pg

from viewer_pipeline.errors import (
    PostgresFailed,
    PostgresRefusesWrites,
    PostgresUnavailable,
    SchemaMissing,
    TransientError,
    ViewerPipelineError,
)
from viewer_pipeline.flush.identity import LedgerIdentity, read_identity
from viewer_pipeline.flush.readings import Reject
from viewer_pipeline.logs import event
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.redaction import without_password
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.postgres import (
    IN_RECOVERY,
    READ_ONLY,
    open_connection,
    read_only_reason,
    refuses_writes,
)
from viewer_pipeline.stores.queries import fetch_one, named_queries
from viewer_pipeline.target.table import Target, TargetNames, find_target
from viewer_pipeline.target.upsert import add_to_target, add_what_it_takes, blames_rows

SQL = named_queries(__name__)

log = logging.getLogger("viewer_pipeline.ledger")

REJECTS_AT_ONCE = 1000
LEDGER_FORMAT = 2  # of what a flush says; version 0.1.0 writes none, and the ledger takes no flush without
# After any of these another connection may get further. The last two end a session that is in a transaction.
UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    pg.IdleInTransactionSessionTimeout,
    pg.TransactionTimeout,
)


class Batch(NamedTuple):
    """What one settling script subtracts: `deltas[i]` views from the counter of `vod_ids[i]`."""

    seq: int
    number: int  # 1 .. of
    of: int
    taken_at: datetime
    vod_ids: list[str]
    deltas: list[int]
    epoch: str = ""  # of the marker when its counters were read
    flush_id: str = ""

    def passed_over(self) -> Batch:
        """Return it without counters: what advances the marker and subtracts nothing."""
        return self._replace(vod_ids=[], deltas=[])


class LastFlush(NamedTuple):
    """The newest flush of the ledger; (0, 0) in a new database."""

    seq: int
    batches: int
    flush_id: UUID | None = None


# Gives the new total of each VOD of a flush whose views were not parked. Called by who publishes, because to make
# ten thousand Python objects of a result takes time that the next transaction can use.
Totals = Callable[[], dict[str, int]]


@dataclass(frozen=True)
class Flush:
    """One transaction to be: `batches` under the number `seq`, provided that nothing was committed above `base`.

    And provided that the flush `after`, the newest one when `base` was fixed, is still in the ledger: without it,
    PostgreSQL was rolled back in between, and with it perhaps what the counters were read from.
    """

    seq: int
    base: int
    flush_id: UUID
    run_id: str
    mode: str
    taken_at: datetime
    batches: list[Batch]
    after: UUID | None = None
    epoch: str = ""

    @property
    def counters(self) -> int:
        """How many counters it takes."""
        return sum(len(batch.vod_ids) for batch in self.batches)

    @property
    def views(self) -> int:
        """How many views it adds."""
        return sum(sum(batch.deltas) for batch in self.batches)


# What a flush's transaction does after the ledger: adds to the totals, and to the target table.
Upsert = Callable[[psycopg.Connection, Flush], Totals]


class HeldFlush(NamedTuple):
    """What the ledger's row of a flush says."""

    seq: int
    counters: int
    views: int
    batches: int


class BatchDigest(NamedTuple):
    """What the ledger holds for one batch, to be compared with what was meant."""

    seq: int
    number: int
    counters: int
    views: int
    sha256: bytes


class Sums(NamedTuple):
    """Rows and views by where they are."""

    vods: int
    persisted: int
    parked_vods: int
    parked: int
    rejected: int


class RecentFlush(NamedTuple):
    """One row of the ledger, for people."""

    seq: int
    mode: str
    taken_at: datetime
    committed_at: datetime
    counters: int
    views: int
    batches: int
    run_id: str


@contextmanager
def postgres_errors(url: str) -> Iterator[None]:
    """Turn psycopg's errors into ours: what may be tried again, and what needs a person."""
    where = without_password(url)
    try:
        yield
    except (pg.UndefinedTable, pg.InvalidSchemaName, pg.UndefinedColumn) as error:
        raise SchemaMissing(f"{where}: {_first_line(error)}") from error
    except psycopg.Error as error:
        ours: type[ViewerPipelineError] = PostgresFailed
        if refuses_writes(error):
            ours = PostgresRefusesWrites
        elif isinstance(error, UNAVAILABLE):
            ours = PostgresUnavailable
        raise ours(f"{where}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


class Ledger:
    """The ledger and the totals of one database, and the target table if there is one.

    Over connections that live for one step, as does what it knows of the target table.
    """

    def __init__(self, url: str, target: TargetNames | None = None) -> None:
        self.url = url
        self.names = target
        self._target: Target | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the ledger, and the target table, that the settings name. Connects when it is used."""
        return cls(settings.require_database_url(), TargetNames.of(settings))

    @contextmanager
    def connect(self, *, any_server: bool = False) -> Iterator[psycopg.Connection]:
        """Open an autocommit connection with finite waits; driver errors inside come out as ours.

        Raises PostgresRefusesWrites where it leads to a standby or to a read-only server, whose ledger may be another
        than the primary's; not for who reads from `any_server`.
        """
        with postgres_errors(self.url), open_connection(PostgresUrl.of(self.url)) as connection:
            if not any_server and (reason := read_only_reason(connection)):
                raise PostgresRefusesWrites(f"{without_password(self.url)}: {reason}")
            yield connection

    def commit(self, connection: psycopg.Connection, flush: Flush, upsert: Upsert | None = None) -> Totals | None:
        """Write the flush and its totals, or what else `upsert` does, in one transaction; return what gives the totals.

        None: superseded by another run, nothing written. A COMMIT whose answer was lost is resolved by looking the
        flush_id up on a new connection (rule R8); there are no totals then. Where that cannot be done either,
        PostgresUnavailable, PostgresRefusesWrites: the next attempt finds its flush in the ledger, or does not.
        """
        try:
            return self._commit(connection, flush) if upsert is None else _transact(connection, flush, upsert)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if self.holds(flush.flush_id):
                log.warning(event("answer of a COMMIT lost, not the flush", flush=flush.seq, reason=_first_line(error)))
                return dict
            raise

    def target(self, connection: psycopg.Connection) -> Target | None:
        """Return the target table, looked up once; None where none is asked for. Raises TargetUnusable."""
        if self._target is None and self.names is not None:
            with connection.transaction():  # where the search_path of the URL holds, also through PgBouncer
                self._target = find_target(connection, self.names)
        return self._target

    def identity(self, connection: psycopg.Connection) -> LedgerIdentity:
        """Read which ledger this is."""
        return read_identity(connection, self.url)

    def _commit(self, connection: psycopg.Connection, flush: Flush) -> Totals | None:
        """Try the common case first: every row takes its views."""
        target = self.target(connection)
        if target is None:
            try:
                return _transact(connection, flush, _add_to_totals)
            except pg.NumericValueOutOfRange:
                return _transact(connection, flush, partial(_add_to_totals, upsert="upsert_totals_parking"))
        try:
            return _transact(connection, flush, lambda c, f: add_to_target(c, target, f.seq, f.counters))
        except psycopg.Error as error:
            if not blames_rows(error):
                raise
            log.warning(event("rows of the target table to blame", flush=flush.seq, reason=_first_line(error)))
        return _transact(connection, flush, lambda c, f: add_what_it_takes(c, target, f.seq, f.counters))

    def holds(self, flush_id: UUID) -> bool:
        """Look up whether a flush was committed. Raises PostgresRefusesWrites where the server cannot know it."""
        with self.connect(any_server=True) as connection:
            committed, standby, read_only = find_flush(connection, str(flush_id))
        if standby or read_only:
            reason = IN_RECOVERY if standby else READ_ONLY
            where = without_password(self.url)
            raise PostgresRefusesWrites(f"{where}: {reason}, so whether flush {flush_id} was committed is not known")
        return committed


def require_target(settings: Settings) -> None:
    """Raise TargetUnusable where the target table of the settings cannot be used.

    A PostgreSQL that is out of reach now is asked again by every run.
    """
    if names := TargetNames.of(settings):
        ledger = Ledger(settings.require_database_url(), names)
        try:
            with ledger.connect(any_server=True) as connection:
                ledger.target(connection)
        except TransientError:
            return


def find_flush(connection: psycopg.Connection, flush_id: str) -> tuple[bool, bool, bool]:
    """Return whether this server holds a flush, whether it is a standby, and whether it is read-only."""
    committed, standby, read_only = fetch_one(connection, SQL["find_flush"], flush_id=flush_id or None)
    return committed, standby, read_only


def last_flush(connection: psycopg.Connection) -> LastFlush:
    """Read the ledger's newest flush."""
    row = connection.execute(SQL["last_flush"]).fetchone()
    return LastFlush(*row) if row else LastFlush(0, 0)


def batches_beyond(connection: psycopg.Connection, seq: int, batch: int, through: int, limit: int) -> list[Batch]:
    """Read at most `limit` batches after (seq, batch), up to and including flush `through`, in settling order."""
    parameters = {"seq": seq, "batch": batch, "through": through, "limit": limit}
    return [Batch(*row) for row in connection.execute(SQL["batches_beyond"], parameters)]


def record_rejects(connection: psycopg.Connection, rejects: Sequence[Reject]) -> None:
    """Record rejects, each once however often it is seen; in steps, so that a million of them is no long statement."""
    for some in chunks(rejects, REJECTS_AT_ONCE):
        if fresh := unrecorded(connection, some):
            connection.execute(SQL["insert_rejects"], _columns(fresh))


def record_message_rejects(connection: psycopg.Connection, rejects: Sequence[Reject], keep: int) -> int:
    """Record rejects, the first ones first, while fewer than `keep` rows of their source and reason exist.

    Returns how many were recorded: each once, however often it is seen. The bound holds for all workers together and
    over restarts: one transaction at a time counts and adds.
    """
    once = list({reject.digest: reject for reject in reversed(rejects)}.values())[::-1]
    if not once:
        return 0
    with connection.transaction():
        connection.execute(SQL["lock_message_rejects"])
        return connection.execute(SQL["insert_message_rejects"], {**_columns(once), "keep": keep}).rowcount


def _columns(rejects: Sequence[Reject]) -> dict[str, Any]:
    return {
        "digests": [r.digest for r in rejects],
        "sources": [r.source for r in rejects],
        "subjects": [r.subject for r in rejects],
        "values": [r.value for r in rejects],
        "reasons": [r.reason for r in rejects],
    }


def unrecorded(connection: psycopg.Connection, rejects: Sequence[Reject]) -> list[Reject]:
    """Return those rejects that are not recorded yet."""
    known = connection.execute(SQL["recorded_rejects"], {"digests": [r.digest for r in rejects]})
    digests = {row[0] for row in known}
    return [reject for reject in rejects if reject.digest not in digests]


def flushes_of_run(connection: psycopg.Connection, run_id: str, base: int) -> list[HeldFlush]:
    """Read which flushes above `base` a run has committed, in order."""
    rows = connection.execute(SQL["flushes_of_run"], {"run_id": run_id, "base": base})
    return [HeldFlush(seq, counters, int(views), batches) for seq, counters, views, batches in rows]


def batch_digests(connection: psycopg.Connection, seqs: list[int]) -> list[BatchDigest]:
    """Read what the ledger holds for these flushes."""
    rows = connection.execute(SQL["batch_digests"], {"seqs": seqs})
    return [BatchDigest(seq, number, counters, int(views), digest) for seq, number, counters, views, digest in rows]


def totals_behind(connection: psycopg.Connection, seqs: list[int]) -> list[tuple[int, str, int | None]]:
    """Return up to 20 of (seq, vod id, last flush of its total) where a total does not carry its flush."""
    return list(connection.execute(SQL["totals_behind"], {"seqs": seqs}))


def top_of_flushes(connection: psycopg.Connection, seqs: list[int], limit: int) -> list[tuple[str, int, int]]:
    """Return (vod id, views in these flushes, total) of the VODs with the most views."""
    rows = connection.execute(SQL["top_of_flushes"], {"seqs": seqs, "limit": limit})
    return [(vod_id, int(views), int(total or 0)) for vod_id, views, total in rows]


def recent_flushes(connection: psycopg.Connection, limit: int) -> list[RecentFlush]:
    """Return the last flushes, newest first."""
    return [RecentFlush(*row) for row in connection.execute(SQL["recent_flushes"], {"limit": limit})]


def sums(connection: psycopg.Connection) -> Sums:
    """Add up what is persisted, parked and rejected."""
    return Sums(*map(int, fetch_one(connection, SQL["sums"])))


def totals(connection: psycopg.Connection, vod_ids: list[str]) -> dict[str, int]:
    """Return the totals of those of these VODs that have one."""
    return dict(connection.execute(SQL["totals"], {"vod_ids": vod_ids}).fetchall())


def _transact(connection: psycopg.Connection, flush: Flush, upsert: Upsert) -> Totals | None:
    with connection.transaction():
        if not _claim(connection, flush):
            return None
        _copy_batches(connection, flush.batches)
        return upsert(connection, flush)


def _add_to_totals(connection: psycopg.Connection, flush: Flush, upsert: str = "upsert_totals") -> Totals:
    rows = connection.execute(SQL[upsert], {"seq": flush.seq}, binary=True)
    return lambda: dict(rows.fetchall())


def adjust_totals(connection: psycopg.Connection, flush: Flush) -> Totals:
    """Add a flush to the totals alone, whether there is a target table or not; return what gives the new ones."""
    return _add_to_totals(connection, flush)


def _claim(connection: psycopg.Connection, flush: Flush) -> bool:
    claimed = connection.execute(
        SQL["insert_flush"],
        {
            "seq": flush.seq,
            "base": flush.base,
            "flush_id": flush.flush_id,
            "run_id": flush.run_id,
            "mode": flush.mode,
            "taken_at": flush.taken_at,
            "counters": flush.counters,
            "views": flush.views,
            "batches": len(flush.batches),
            "epoch": flush.epoch,
            "after": flush.after,
            "format": LEDGER_FORMAT,
        },
    )
    return claimed.fetchone() is not None


def _copy_batches(connection: psycopg.Connection, batches: list[Batch]) -> None:
    from viewer_pipeline.flush.copy_format import batch_rows  # noqa: PLC0415 - numpy, which the worker does not need

    with connection.cursor() as cursor, cursor.copy(SQL["copy_batches"]) as copy:
        copy.write(batch_rows((b.seq, b.number, b.vod_ids, b.deltas) for b in batches))
