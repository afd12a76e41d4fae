"""Undo of an adjustment: once, in a transaction that is in the ledger as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID, uuid5

import psycopg

from viewer_pipeline.errors import CannotUndo, PostgresUnavailable
from viewer_pipeline.flush.counter_validation import MAX_COUNT
from viewer_pipeline.flush.ledger_reads import totals
from viewer_pipeline.flush.ledger_row_types import Flush
from viewer_pipeline.flush.transaction import add_to_totals
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster, AdjustmentMode, StaleRead
from viewer_pipeline.reconcile.repair import adjust_target_if_unchanged
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.target.add_or_park import FetchTotals
from viewer_pipeline.target.table import MAX_COUNTS, Target

SQL = named_queries(__name__)

UNDO = UUID("5c1b3f0e-6f1c-4b53-9a6d-1d7c8b0f6a55")  # namespace: the undo of an adjustment always has the same id


@dataclass(frozen=True)
class Adjustment:
    """The deltas of a flush of `reconcile`."""

    seq: int
    mode: AdjustmentMode
    flush_id: UUID
    deltas: Mapping[str, int]


def undo_adjustment(adjuster: Adjuster, target: Target | None, seq: int) -> Flush:
    """Take back the adjustment of flush `seq`, all of it or nothing. Raises CannotUndo, also at a second undo."""
    adjustment = _adjustment(adjuster.connection, seq)
    flush_id = uuid5(UNDO, str(adjustment.flush_id))
    if adjuster.stores.ledger.has_committed(flush_id):
        raise CannotUndo(f"flush {seq} was undone already")
    plan = _UndoPlan(adjuster.connection, adjustment, target)
    try:
        flush = adjuster.commit(adjustment.mode, plan, plan.write_totals_or_target, flush_id)
    except StaleRead:
        raise PostgresUnavailable(f"other runs kept committing first; flush {seq} is not undone, try again") from None
    if flush is None:
        raise CannotUndo(f"flush {seq} was undone already")
    return flush


def _adjustment(connection: psycopg.Connection, seq: int) -> Adjustment:
    rows = connection.execute(SQL["adjustment_of"], {"seq": seq}).fetchall()
    if not rows:
        raise CannotUndo(f"the ledger has no flush {seq} (any more)")
    mode, flush_id, *_ = rows[0]
    if not mode.startswith("reconcile"):
        raise CannotUndo(f"flush {seq} counted views (mode {mode}); only an adjustment of `reconcile` can be undone")
    return Adjustment(seq, mode, flush_id, {vod_id: delta for _, _, vod_id, delta in rows})


@dataclass
class _UndoPlan:
    connection: psycopg.Connection
    adjustment: Adjustment
    target: Target | None

    def __call__(self) -> dict[str, int]:
        """Return the deltas negated, if the counts allow that. Raises CannotUndo."""
        self.counts = self._read_current_counts()
        limit = (
            MAX_COUNT if self.adjustment.mode == "reconcile" or not self.target else MAX_COUNTS[self.target.count_type]
        )
        negated = {vod_id: -delta for vod_id, delta in self.adjustment.deltas.items()}
        for vod_id, delta in negated.items():
            if vod_id not in self.counts or not 0 <= self.counts[vod_id] + delta <= limit:
                count = self.counts.get(vod_id, "no count")
                raise CannotUndo(
                    f"flush {self.adjustment.seq}: {vod_id!r} has {count}, to which {delta} cannot be added"
                )
        return negated

    def _read_current_counts(self) -> dict[str, int]:
        ids = list(self.adjustment.deltas)
        if self.adjustment.mode == "reconcile":
            return totals(self.connection, ids)
        if self.target is None:
            raise CannotUndo(f"flush {self.adjustment.seq} adjusted a target table, and TARGET_TABLE is not set")
        return dict(self.connection.execute(self.target.statement(SQL["target_counts"]), {"vod_ids": ids}).fetchall())

    def write_totals_or_target(self, connection: psycopg.Connection, flush: Flush) -> FetchTotals:
        if self.target is None or self.adjustment.mode == "reconcile":
            return add_to_totals(connection, flush)
        return adjust_target_if_unchanged(connection, self.target, flush, self.counts)
