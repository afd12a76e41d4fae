"""Totals against history: total - baseline + parked + given up = daily views that left the ledger + the ledger."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, NamedTuple

import psycopg

from viewer_pipeline.flush.counters import MAX_COUNT
from viewer_pipeline.flush.ledger import last_flush
from viewer_pipeline.reconcile.journal import Difference, Journal
from viewer_pipeline.reconcile.snapshot import snapshot, streamed
from viewer_pipeline.stores.queries import named_queries

SQL = named_queries(__name__)


class Basis(NamedTuple):
    """The moment of a comparison: its last flush, and the views that were given up of VODs that no record names."""

    seq: int
    unnamed: int


class _Row(NamedTuple):
    """A VOD of which the law does not hold."""

    vod_id: str
    history: int
    total: int | None
    baseline: int
    parked: int
    given_up: int

    @property
    def expected(self) -> int:
        """What the total should be."""
        return self.baseline + self.history - self.given_up - self.parked

    @property
    def lack(self) -> int:
        """How many views are in the history and nowhere else; below zero where there are too many."""
        return self.expected - (self.total or 0)

    @property
    def gone(self) -> bool:
        """Whether there is neither a total nor a parked row."""
        return self.total is None and not self.parked


@dataclass
class _Lacks:
    """Views that lack, and how many of them retention has given up without saying whose they were."""

    unnamed: int
    gone: int = 0  # of VODs that have neither a total nor parked views
    short: int = 0  # of others

    def add(self, row: _Row) -> None:
        if row.lack > 0:
            if row.gone:
                self.gone += row.lack
            else:
                self.short += row.lack

    @property
    def explained(self) -> bool:
        """Whether what was given up is just what lacks, so that nothing does."""
        return self.unnamed > 0 and self.unnamed in (self.gone, self.gone + self.short)

    @property
    def blamed(self) -> bool:
        """Whether a VOD that has too few views can be blamed: none of them were given up."""
        return self.unnamed in (0, self.gone)

    def differs(self, row: _Row) -> bool:
        """Whether this VOD is to be told by its name."""
        if row.lack <= 0 or self.unnamed == 0:
            return True
        return not row.gone and self.unnamed != self.gone + self.short


def compare_totals(url: str, journal: Journal) -> Basis:
    """Note each VOD whose total is not what the history says. One pass over one moment; flushes may go on."""
    with snapshot(url) as connection, TemporaryFile("w+", encoding="utf-8", newline="") as spool:
        basis = Basis(last_flush(connection).seq, _unnamed(connection))
        lacks = _Lacks(basis.unnamed)
        writer = csv.writer(spool)
        for found in streamed(connection, SQL["reconcile_totals"]):
            row = _Row(found[0], int(found[1]), found[2], found[3] or 0, int(found[4]), int(found[5]))
            lacks.add(row)
            writer.writerow(["" if value is None else value for value in row])
        for row in _reread(spool):
            if lacks.differs(row):
                journal.add(_difference(row, lacks))
    if lacks.unnamed and not lacks.explained:
        said = "views that retention gave up are not those that lack; whose they are cannot be told"
        journal.add(Difference("given_up", "", lacks.unnamed, lacks.gone + lacks.short, said))
    return basis


def _unnamed(connection: psycopg.Connection) -> int:
    row = connection.execute(SQL["unnamed_given_up"]).fetchone()
    return int(row[0]) if row else 0


def _reread(spool: IO[str]) -> Iterator[_Row]:
    spool.seek(0)
    for vod_id, history, total, *rest in csv.reader(spool):
        baseline, parked, given_up = map(int, rest)
        yield _Row(vod_id, int(history), int(total) if total else None, baseline, parked, given_up)


def _difference(row: _Row, lacks: _Lacks) -> Difference:
    fits = 0 <= row.expected <= MAX_COUNT and (row.total is not None or not row.parked)
    blamed = row.lack < 0 or lacks.blamed
    said = f"history {row.history}, baseline {row.baseline}, parked {row.parked}, given up {row.given_up}"
    if row.total is None:
        said = f"no total; {said}"
    if not fits:
        said += "; no total explains that"
    elif not blamed:
        said += "; retention may have given them up"
    return Difference("total", row.vod_id, row.expected, row.total, said, fits and blamed, str(row.history))
