"""Running totals over the ledger: a scrape reads only the flushes since the last one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg

from viewer_pipeline.flush.incidents import Kind, open_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import held_summary
from viewer_pipeline.flush.ledger_row_types import HeldSummary
from viewer_pipeline.flush.rejected_counts import RejectedCount, read_rejected_summary
from viewer_pipeline.flush.run_metrics import (
    RunMetric,
    flushes_since,
    read_position,
    read_run_metrics,
)


@dataclass
class LedgerTotals:
    """Totals over the flushes of the ledger up to a position, by mode."""

    through: str = "{}"
    flushes: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    last_flush_at: float | None = None  # Unix time


class LedgerReading(NamedTuple):
    """One reading of PostgreSQL."""

    totals: LedgerTotals  # the next reading adds to them
    recorded: list[RunMetric]
    rejected: list[RejectedCount]
    held: HeldSummary
    incidents: list[Kind]  # that are open


class LedgerTotalsReader:
    """Keeps totals over the flushes that it has read. For one thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._totals = LedgerTotals()

    def read(self) -> LedgerReading:
        """Read what was committed since the last call. Raises PostgresUnavailable, SchemaMissing."""
        with self._ledger.connect() as connection:
            self.add_new(connection)
            recorded, rejected = read_run_metrics(connection), read_rejected_summary(connection).counts
            held = held_summary(connection)
            incidents = [incident.kind for incident in open_incidents(connection)]
        return LedgerReading(self._totals, recorded, rejected, held, incidents)

    def add_new(self, connection: psycopg.Connection) -> LedgerTotals:
        """Add what was committed since the last call, and return the totals."""
        through, holds = read_position(connection, self._totals.through)
        if not holds:
            self._totals = LedgerTotals()  # begin again
        totals = self._totals
        news = flushes_since(connection, totals.through, through) if totals.through != through else []
        totals.through = through
        for new in news:
            totals.flushes[new.mode] += new.flushes
            totals.counters[new.mode] += new.counters
            totals.views[new.mode] += new.views
            totals.last_flush_at = max(totals.last_flush_at or 0.0, new.last_committed_at.timestamp())
        return totals
