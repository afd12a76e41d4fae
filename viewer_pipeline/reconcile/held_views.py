"""The decision about held views (rule R16): they are new, and counted; or they were counted before, and dropped.

Counting moves them from `viewer.held` to the totals in flushes of their own, which subtract nothing from Redis: that
was done when the views were held. So wherever a process dies, a view is in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import psycopg

from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.flush.ledger_row_types import COUNT_HELD, Flush
from viewer_pipeline.flush.transaction import add_to_totals_parking
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster, StaleRead
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.target.add_or_park import FetchTotals, upsert_bisecting
from viewer_pipeline.target.table import Target

SQL = named_queries(__name__)

DROP_ROWS = 10_000  # in one transaction


class HeldEpoch(NamedTuple):
    """What is held of one occasion on which Redis had lost its marker. `epoch`: of the marker that was made then."""

    epoch: str
    vods: int
    views: int
    since: datetime


class Decided(NamedTuple):
    """Numbers of VODs and views that were counted or dropped."""

    vods: int
    views: int


def held_by_epoch(connection: psycopg.Connection) -> list[HeldEpoch]:
    """Return what is held, oldest first."""
    return [HeldEpoch(*row) for row in connection.execute(SQL["held_by_epoch"])]


def count_held(adjuster: Adjuster, target: Target | None, epoch: str, counters_per_flush: int) -> Decided:
    """Add what is held of an epoch to the totals and the target, flush by flush. May be stopped and repeated.

    Raises PostgresUnavailable if other runs keep committing first; what was counted until then is counted.
    """
    vods = views = 0
    counting = _Counting(adjuster.connection, target, epoch, counters_per_flush)
    while True:
        try:
            flush = adjuster.commit(COUNT_HELD, counting.read_page, counting.take_and_add)
        except StaleRead:
            raise PostgresUnavailable(f"other runs kept committing first; {views} held views are counted") from None
        if flush is None:
            return Decided(vods, views)
        vods, views = vods + flush.counters, views + flush.views


@dataclass(frozen=True)
class _Counting:
    connection: psycopg.Connection
    target: Target | None
    epoch: str
    limit: int

    def read_page(self) -> dict[str, int]:
        """Return the next VODs with their held views."""
        return dict(self.connection.execute(SQL["held_page"], {"epoch": self.epoch, "limit": self.limit}).fetchall())

    def take_and_add(self, connection: psycopg.Connection, flush: Flush) -> FetchTotals:
        """Move the views of the flush. Raises StaleRead if one of its rows has changed since it was read."""
        (moved,) = fetch_one(connection, SQL["take_counted"], epoch=self.epoch, seq=flush.seq)
        if moved != flush.counters:
            raise StaleRead
        if self.target is None:
            return add_to_totals_parking(connection, flush)
        return upsert_bisecting(connection, self.target, flush.seq, flush.counters)


def drop_held(connection: psycopg.Connection, epoch: str) -> Decided:
    """Drop what is held of an epoch, page by page."""
    vods = views = 0
    while (page := Decided(*fetch_one(connection, SQL["drop_held"], epoch=epoch, limit=DROP_ROWS))).vods:
        vods, views = vods + page.vods, views + page.views
    return Decided(vods, views)


def held_by_ledger(connection: psycopg.Connection) -> tuple[int, int]:
    """Return how many views the flushes have held, and how many are held now or decided: the same number."""
    by_flushes, by_rows = fetch_one(connection, SQL["held_by_ledger"])
    return by_flushes, by_rows
