"""Totals against history: total - baseline + parked + discarded = daily views of pruned days + the ledger."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, NamedTuple

from viewer_pipeline.flush.counters import MAX_COUNT
from viewer_pipeline.flush.ledger_queries import last_flush
from viewer_pipeline.reconcile.report import Difference, DifferenceReport
from viewer_pipeline.reconcile.snapshot import open_snapshot, stream_rows
from viewer_pipeline.stores.queries import fetch_one, named_queries

SQL = named_queries(__name__)


class SnapshotPoint(NamedTuple):
    """The moment of a comparison: its last flush, and the views that retention has pruned without naming their VODs."""

    seq: int
    pruned: int


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
    def shortfall(self) -> int:
        """How many views of the history are missing from the total; negative where the total has too many."""
        return self.expected - (self.total or 0)

    @property
    def absent(self) -> bool:
        """Whether there is neither a total nor a parked row."""
        return self.total is None and not self.parked


@dataclass
class _Shortfall:
    """Views missing from the totals, and how many views retention has pruned without naming their VODs."""

    pruned: int
    absent: int = 0  # of VODs that have neither a total nor parked views
    present: int = 0  # of other VODs

    def add(self, row: _Row) -> None:
        if row.shortfall > 0:
            if row.absent:
                self.absent += row.shortfall
            else:
                self.present += row.shortfall

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
        if row.shortfall <= 0 or self.pruned == 0:
            return True
        return not row.absent and self.pruned != self.absent + self.present


def compare_totals(url: str, report: DifferenceReport) -> SnapshotPoint:
    """Report each VOD whose total does not match its history. Reads one snapshot once; flushes may run meanwhile."""
    with open_snapshot(url) as connection, TemporaryFile("w+", encoding="utf-8", newline="") as spool:
        seq = last_flush(connection).seq
        point = SnapshotPoint(seq, int(fetch_one(connection, SQL["pruned_views"])[0]))
        shortfall = _Shortfall(point.pruned)
        writer = csv.writer(spool)
        for vod_id, history, total, baseline, parked, discarded in stream_rows(connection, SQL["reconcile_totals"]):
            row = _Row(vod_id, int(history), total, baseline or 0, int(parked), int(discarded))
            shortfall.add(row)
            writer.writerow(["" if value is None else value for value in row])
        for row in _read_spool(spool):
            if shortfall.differs(row):
                report.add(_difference(row, shortfall))
    if point.pruned and not shortfall.is_explained:
        message = "the views that retention pruned are not the missing ones; which VODs they belong to is not known"
        report.add(Difference("pruned", "", point.pruned, shortfall.absent + shortfall.present, message))
    return point


def _read_spool(spool: IO[str]) -> Iterator[_Row]:
    spool.seek(0)
    for vod_id, history, total, *rest in csv.reader(spool):
        baseline, parked, discarded = map(int, rest)
        yield _Row(vod_id, int(history), int(total) if total else None, baseline, parked, discarded)


def _difference(row: _Row, shortfall: _Shortfall) -> Difference:
    fits = 0 <= row.expected <= MAX_COUNT and (row.total is not None or not row.parked)
    certain = row.shortfall < 0 or shortfall.is_certain
    message = f"history {row.history}, baseline {row.baseline}, parked {row.parked}, discarded {row.discarded}"
    if row.total is None:
        message = f"no total; {message}"
    if not fits:
        message += "; no total explains that"
    elif not certain:
        message += "; retention may have pruned them"
    return Difference("total", row.vod_id, row.expected, row.total, message, fits and certain, str(row.history))
