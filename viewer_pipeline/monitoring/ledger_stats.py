"""Sums over the ledger that grow with it, so that a scrape reads only what came since the last."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg

from viewer_pipeline.flush.incidents import Kind, open_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_queries import last_flush
from viewer_pipeline.flush.run_metrics import (
    RejectedRows,
    RunMetric,
    flushes_since,
    pruned_through,
    read_run_metrics,
    rejected_by_reason,
)


class LedgerReading(NamedTuple):
    """What PostgreSQL says now: sums over the ledger by mode, sums that runs recorded, rejects, incidents."""

    flushes: Counter[str]
    counters: Counter[str]
    views: Counter[str]
    last_flush_at: float | None  # Unix time
    recorded: list[RunMetric]
    rejected: list[RejectedRows]
    incidents: list[Kind]  # that are open


@dataclass
class _Sums:
    through: int = 0  # the last flush in them
    flushes: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    last_at: float | None = None


class LedgerFigures:
    """Remembers the sums of the flushes it has seen. For one thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._sums = _Sums()

    def read(self) -> LedgerReading:
        """Read what is new. Raises PostgresUnavailable, SchemaMissing."""
        with self._ledger.connect() as connection:
            self._add_new(connection)
            recorded, rejected = read_run_metrics(connection), rejected_by_reason(connection)
            incidents = [incident.kind for incident in open_incidents(connection)]
        sums = self._sums
        by_mode = Counter(sums.flushes), Counter(sums.counters), Counter(sums.views)
        return LedgerReading(*by_mode, sums.last_at, recorded, rejected, incidents)

    def _add_new(self, connection: psycopg.Connection) -> None:
        through = self._sums.through
        # Restored from a backup; or retention deleted what was never read, which only the sums over all of it tell.
        if last_flush(connection).seq < through or pruned_through(connection) > through:
            self._sums = _Sums()
        sums = self._sums
        for new in flushes_since(connection, sums.through):
            sums.flushes[new.mode] += new.flushes
            sums.counters[new.mode] += new.counters
            sums.views[new.mode] += new.views
            sums.through = max(sums.through, new.last_seq)
            sums.last_at = max(sums.last_at or 0.0, new.last_committed_at.timestamp())
