"""Totals against history: total - baseline + parked + discarded = daily views of pruned days + the ledger.

The ledger without what its flushes have held (rule R16), of which the sum alone is compared.
"""

from __future__ import annotations

from typing import NamedTuple

from viewer_pipeline.flush.counter_validation import MAX_COUNT
from viewer_pipeline.reconcile.difference_csv import Difference, DifferenceReport
from viewer_pipeline.reconcile.held_views import held_by_ledger
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.postgres import open_snapshot

SQL = named_queries(__name__)


class SnapshotPoint(NamedTuple):
    """The moment of a comparison."""

    position: str  # the flushes that were committed then, as PostgreSQL writes a multirange of their numbers
    pruned: int  # views that retention has pruned without naming their VODs


class _Row(NamedTuple):
    """A VOD whose total does not match its history."""

    vod_id: str
    history: int
    total: int | None
    baseline: int
    parked: int
    discarded: int

    @property
    def expected(self) -> int:
        """What the total should be."""
        return self.baseline + self.history - self.discarded - self.parked

    @property
    def is_too_low(self) -> bool:
        """Whether views of the history are missing from the total."""
        return self.expected > (self.total or 0)


class _Shortfall(NamedTuple):
    """Views missing from the totals, and how many views retention has pruned without naming their VODs."""

    pruned: int
    absent: int = 0  # missing views of VODs that have neither a total nor parked views
    present: int = 0  # of other VODs

    @property
    def is_explained(self) -> bool:
        """Whether exactly the missing views were pruned, so that nothing differs."""
        return self.pruned > 0 and self.pruned in (self.absent, self.absent + self.present)

    @property
    def is_certain(self) -> bool:
        """Whether a total that is too low must be wrong: none of its views can have been pruned."""
        return self.pruned in (0, self.absent)

    def differs(self, row: _Row) -> bool:
        """Whether this VOD is to be reported."""
        if not row.is_too_low or self.pruned == 0:
            return True
        return (row.total is not None or row.parked > 0) and self.pruned != self.absent + self.present


def compare_totals(url: str, report: DifferenceReport) -> SnapshotPoint:
    """Report each VOD whose total does not match its history. Reads one snapshot once; flushes may run meanwhile."""
    with open_snapshot(url) as connection, connection.cursor() as cursor:
        point = SnapshotPoint(*(fetch_one(connection, SQL[name])[0] for name in ("ledger_position", "pruned_views")))
        shortfall = _Shortfall(point.pruned)
        for *columns, absent, present in cursor.stream(SQL["reconcile_totals"]):
            row, shortfall = _Row(*columns), _Shortfall(point.pruned, absent, present)
            if shortfall.differs(row):
                report.add(_difference(row, shortfall))
        by_flushes, by_rows = held_by_ledger(connection)
    if by_flushes != by_rows:
        message = "views of flushes that held them are neither in viewer.held nor decided"
        report.add(Difference("held", "", by_flushes, by_rows, message))
    if point.pruned and not shortfall.is_explained:
        message = "the views that retention pruned are not the missing ones; which VODs they belong to is not known"
        report.add(Difference("pruned", "", point.pruned, shortfall.absent + shortfall.present, message))
    return point


def _difference(row: _Row, shortfall: _Shortfall) -> Difference:
    fits = 0 <= row.expected <= MAX_COUNT and (row.total is not None or not row.parked)
    certain = not row.is_too_low or shortfall.is_certain
    message = f"history {row.history}, baseline {row.baseline}, parked {row.parked}, discarded {row.discarded}"
    if row.total is None:
        message = f"no total; {message}"
    if not fits:
        message += "; no total explains that"
    elif not certain:
        message += "; retention may have pruned them"
    return Difference("total", row.vod_id, row.expected, row.total, message, fits and certain, str(row.history))
