"""The upsert of a flush into the target table and the totals. Views that the table cannot take are parked.

It is one part of the flush's transaction, whatever the table does: rows that are missing, locked, full, or refused by
a constraint or a trigger delay no other row.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg import errors as pg
from psycopg import sql

from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.stores.postgres_errors import first_line
from viewer_pipeline.target.table import Target

SQL = named_queries(__name__)

LOCK_TIMEOUT = "200ms"  # for rows that other transactions lock; transactions that wait for our rows wait as long
SHORT_LOCK_TIMEOUT = "50ms"  # where several waits may follow, e.g. of a trigger for a row of another table
OWN_LOCK_TIMEOUT = "20s"  # for rows of the schema `viewer`, which are locked for short times
MAX_STATEMENTS = 300  # of one bisection, before whole ranges are parked
LOCK_WAIT_COST = 10  # statements that a lock time-out counts for, so that all of them together take at most 2 s
REASON_CHARACTERS = 200

# Returns the new total of each VOD of a flush whose views were not parked. The statement has run by then; the settling
# thread fetches: to make ten thousand Python objects of a result takes time that the next transaction can use.
FetchTotals = Callable[[], dict[str, int]]

# Classes of SQLSTATE that concern no row: connection, transaction, statement, rights, server. All other errors may
# concern single rows. So may these, if the function of a trigger raised them: it may raise any error, and its own
# statements may fail in any way. Errors that ask for a retry of the whole, or never pass here, stay excluded.
_NOT_OF_A_ROW = re.compile("0[8AB]|2[568D]|3[DF]|4[02]|5[34578]|72|F0|HV|XX")
_NOT_OF_A_FUNCTION = re.compile("08|25|40|5[378]|XX00[12]")


def is_row_error(error: psycopg.Error) -> bool:
    """Whether the error may concern single rows: locked by another transaction, or refused."""
    if isinstance(error, pg.LockNotAvailable):
        return True
    if error.sqlstate is None:
        return False
    return not (_NOT_OF_A_FUNCTION if error.diag.context else _NOT_OF_A_ROW).match(error.sqlstate)


def force_index_scans(connection: psycopg.Connection, lock_timeout: str) -> None:
    """For this transaction: use the index of the id column, whatever the number of rows; bound the wait for locks."""
    connection.execute(SQL["force_index_scans"], {"lock_timeout": lock_timeout})


def _begin_writing(connection: psycopg.Connection, lock_timeout: str) -> None:
    """For this transaction: no baseline; triggers have the settings of the operator; rows are found by the index."""
    connection.execute(SQL["begin_writing"], prepare=False)  # several statements in one round trip
    force_index_scans(connection, lock_timeout)


def set_constraints_immediate(connection: psycopg.Connection, lock_timeout: str) -> None:
    """For this transaction: as `_begin_writing`; check deferred constraints of the user immediately."""
    _begin_writing(connection, lock_timeout)
    connection.execute("SET CONSTRAINTS ALL IMMEDIATE")


def add_to_target(connection: psycopg.Connection, target: Target, seq: int, counter_count: int) -> list[str]:
    """Add a flush to the table alone; return the VODs whose views were parked instead. Raises driver errors."""
    _begin_writing(connection, LOCK_TIMEOUT)
    return _update_target(
        connection, target.statement(SQL["update_target"]), {"seq": seq, "skip": 0, "take": counter_count}
    )


def _update_target(connection: psycopg.Connection, statement: sql.Composed, rows: dict[str, int]) -> list[str]:
    return [vod_id for (vod_id,) in connection.execute(statement, rows)]


def upsert_bisecting(connection: psycopg.Connection, target: Target, seq: int, counter_count: int) -> FetchTotals:
    """Add a flush of which the table refuses rows to table and totals; park the views of locked and refused rows."""
    set_constraints_immediate(connection, SHORT_LOCK_TIMEOUT)
    totals = dict[str, int]()
    _Bisection(connection, target, seq, totals).add(0, counter_count)
    return lambda: totals


@dataclass
class _Bisection:
    """Halves a refused range of rows until the refused rows are alone."""

    connection: psycopg.Connection
    target: Target
    seq: int
    totals: dict[str, int]
    statements_left: int = MAX_STATEMENTS

    def add(self, skip: int, take: int) -> None:
        self.statements_left -= 1
        rows = {"seq": self.seq, "skip": skip, "take": take}
        statement = self.target.statement(SQL["update_target"], skip_locked=True)
        try:
            with self.connection.transaction():
                parked = {"parked": _update_target(self.connection, statement, rows)}
                self.totals |= dict(self.connection.execute(SQL["add_range_to_totals"], rows | parked).fetchall())
        except psycopg.Error as error:
            if not is_row_error(error):
                raise
            if isinstance(error, pg.LockNotAvailable):
                self.statements_left -= LOCK_WAIT_COST
            if take == 1 or self.statements_left <= 0:
                self._park(rows | {"reason": refusal_reason(error)})
            else:
                self.add(skip, take // 2)
                self.add(skip + take // 2, take - take // 2)

    def _park(self, rows: dict[str, object]) -> None:
        force_index_scans(self.connection, OWN_LOCK_TIMEOUT)
        self.connection.execute(SQL["park_rows"], rows)
        force_index_scans(self.connection, SHORT_LOCK_TIMEOUT)


def refusal_reason(error: psycopg.Error) -> str:
    """Return the reason to store with parked views."""
    return f"refused: {first_line(error)}"[:REASON_CHARACTERS]
