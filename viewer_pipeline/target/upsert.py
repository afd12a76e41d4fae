"""Adding a flush to the target table and the totals. What that table cannot take is parked; the rest is counted.

All of it is one part of the flush's transaction, whatever the table does: rows that are missing, locked, full, or
refused by a constraint or a trigger hold nothing else up.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg import errors as pg

from viewer_pipeline.stores.queries import named_queries
from viewer_pipeline.target.table import Target

SQL = named_queries(__name__)

LOCK_TIMEOUT = "200ms"  # for rows that others have locked: who waits for rows of ours waits as long
SHORT_LOCK_TIMEOUT = "50ms"  # where it may be waited for again and again, as by a trigger for a row of another table
PATIENT = "20s"  # for rows of our own tables, which nobody holds for long
TRIES = 300  # statements that look for what was refused, before whole stretches are parked
TRIES_OF_A_WAIT = 10  # what a statement counts for that waited in vain: all of them together take 2 s then
REASON_CHARACTERS = 200

# Classes of SQLSTATE for which no row is to blame: the connection, the transaction, the statement, the rights, the
# server. All others may be about some rows only; of these, too, where a trigger's function says so: it may raise any,
# and what it does may fail as any statement does. But not what says that the whole can be done again, or never here.
_NOT_OF_A_ROW = re.compile("0[8AB]|2[568D]|3[DF]|4[02]|5[34578]|72|F0|HV|XX")
_NOT_OF_A_FUNCTION = re.compile("08|25|40|5[378]|XX00[12]")


def is_row_error(error: psycopg.Error) -> bool:
    """Whether it may be some rows only that cannot be written: locked by somebody, or refused."""
    if isinstance(error, pg.LockNotAvailable):
        return True
    if error.sqlstate is None:
        return False
    return not (_NOT_OF_A_FUNCTION if error.diag.context else _NOT_OF_A_ROW).match(error.sqlstate)


def find_rows_by_id(connection: psycopg.Connection, lock_timeout: str) -> None:
    """For this transaction: use the index of the id column however many rows there are; bound the wait for locks."""
    connection.execute(SQL["find_rows_by_id"], {"lock_timeout": lock_timeout})


def set_constraints_immediate(connection: psycopg.Connection, lock_timeout: str) -> None:
    """For this transaction: find rows by the index; let deferred constraints of the user speak up at once."""
    find_rows_by_id(connection, lock_timeout)
    connection.execute("SET CONSTRAINTS ALL IMMEDIATE")


def add_to_target(
    connection: psycopg.Connection, target: Target, seq: int, counters: int
) -> Callable[[], dict[str, int]]:
    """Add a flush of so many counters, all at once; return what gives the new totals. Raises driver errors."""
    find_rows_by_id(connection, LOCK_TIMEOUT)
    every = {"seq": seq, "skip": 0, "take": counters}
    rows = connection.execute(target.statement(SQL["upsert_target"]), every, binary=True)
    return lambda: dict(rows.fetchall())


def upsert_bisecting(
    connection: psycopg.Connection, target: Target, seq: int, counters: int
) -> Callable[[], dict[str, int]]:
    """Do the same where rows are to blame: park those that are locked or refused."""
    set_constraints_immediate(connection, SHORT_LOCK_TIMEOUT)
    totals = dict[str, int]()
    _Stretches(connection, target, seq, totals).add(0, counters)
    return lambda: totals


@dataclass
class _Stretches:
    """Halves what is refused until the refused rows are alone."""

    connection: psycopg.Connection
    target: Target
    seq: int
    totals: dict[str, int]
    tries: int = TRIES

    def add(self, skip: int, take: int) -> None:
        self.tries -= 1
        stretch = {"seq": self.seq, "skip": skip, "take": take}
        statement = self.target.statement(SQL["upsert_target"], skip_locked=True)
        try:
            with self.connection.transaction():
                self.totals |= dict(self.connection.execute(statement, stretch, binary=True).fetchall())
        except psycopg.Error as error:
            if not is_row_error(error):
                raise
            if isinstance(error, pg.LockNotAvailable):
                self.tries -= TRIES_OF_A_WAIT
            if take == 1 or self.tries <= 0:
                self._park(stretch | {"reason": refusal_reason(error)})
            else:
                self.add(skip, take // 2)
                self.add(skip + take // 2, take - take // 2)

    def _park(self, stretch: dict[str, object]) -> None:
        find_rows_by_id(self.connection, PATIENT)
        self.connection.execute(SQL["park_some"], stretch)
        find_rows_by_id(self.connection, SHORT_LOCK_TIMEOUT)


def refusal_reason(error: psycopg.Error) -> str:
    """Return the reason that is kept with parked views."""
    return f"refused: {str(error).strip().partition(chr(10))[0]}"[:REASON_CHARACTERS]
