"""Sums over the ledger that grow with it, so that a scrape reads only what came since the last."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from viewer_pipeline.counting.ledger import Ledger, last_flush

SINCE = """
    SELECT mode, count(*), sum(counters)::bigint, sum(views), max(seq) FROM viewer.flush
    WHERE seq > %(seq)s GROUP BY mode
"""
LAST_AT = "SELECT extract(epoch FROM committed_at)::float8 FROM viewer.flush ORDER BY seq DESC LIMIT 1"
REJECTED = "SELECT reason, count(*) FROM viewer.rejected GROUP BY reason"


class LedgerReading(NamedTuple):
    """What the ledger says now; sums by mode."""

    flushes: Counter[str]
    counters: Counter[str]
    views: Counter[str]
    last_flush_at: float | None  # Unix time
    rejected: dict[str, int]  # by reason


@dataclass
class _Sums:
    through: int
    flushes: Counter[str]
    counters: Counter[str]
    views: Counter[str]


class LedgerFigures:
    """Remembers the sums of the flushes it has seen. For one thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._sums = _none()

    def read(self) -> LedgerReading:
        """Read what is new. Raises PostgresUnavailable, SchemaMissing."""
        with self._ledger.connect() as connection:
            self._add_new(connection)
            row = connection.execute(LAST_AT).fetchone()
            rejected = dict(connection.execute(REJECTED).fetchall())
        sums = self._sums
        return LedgerReading(
            Counter(sums.flushes), Counter(sums.counters), Counter(sums.views), row[0] if row else None, rejected
        )

    def _add_new(self, connection: psycopg.Connection) -> None:
        if last_flush(connection).seq < self._sums.through:  # PostgreSQL was restored from a backup
            self._sums = _none()
        sums = self._sums
        for mode, flushes, counters, views, seq in connection.execute(SINCE, {"seq": sums.through}).fetchall():
            sums.flushes[mode] += flushes
            sums.counters[mode] += counters
            sums.views[mode] += int(views)
            sums.through = max(sums.through, seq)


def _none() -> _Sums:
    return _Sums(0, Counter(), Counter(), Counter())
