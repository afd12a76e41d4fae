"""Repairs: totals to the history, the target to the totals, both in the ledger; parked views that the target takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_row_types import Flush
from viewer_pipeline.flush.transaction import add_to_totals
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster, StaleRead
from viewer_pipeline.reconcile.compare_totals_with_history import SnapshotPoint
from viewer_pipeline.reconcile.difference_csv import DifferenceReport, Kind
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.target.add_or_park import LOCK_TIMEOUT, FetchTotals, is_row_error, set_constraints_immediate
from viewer_pipeline.target.parked_views import apply_parked
from viewer_pipeline.target.table import Target

SQL = named_queries(__name__)

BATCH_ROWS = 1000  # VODs in one transaction


def repair_totals(adjuster: Adjuster, report: DifferenceReport, point: SnapshotPoint) -> None:
    """Set totals to what history and ledger say now. A total that nothing explains stays as it is."""
    for vods in chunks(report.repairable("total"), BATCH_ROWS):
        plan = _TotalsPlan(adjuster.connection, point, vods)
        try:
            flush = adjuster.commit("reconcile", plan, add_to_totals)
        except StaleRead:
            continue  # other runs kept committing first
        _record(report, "total", flush, len(vods) - plan.unexplained)


@dataclass
class _TotalsPlan:
    """The deltas to the totals of some VODs, read again at each call."""

    connection: psycopg.Connection
    point: SnapshotPoint
    vods: Sequence[tuple[str, str]]  # id, and history up to the snapshot
    unexplained: int = 0  # totals that nothing explains any more

    def __call__(self) -> dict[str, int]:
        rows = self.connection.execute(
            SQL["total_adjustments"],
            {
                "vod_ids": [vod_id for vod_id, _ in self.vods],
                "history": [int(history) for _, history in self.vods],
                "position": self.point.position,
                "pruned": self.point.pruned,
            },
        ).fetchall()
        self.unexplained = sum(not fits for _, _, fits in rows)
        return {vod_id: delta for vod_id, delta, fits in rows if fits}


def repair_target(adjuster: Adjuster, target: Target, report: DifferenceReport) -> None:
    """Set counts of the user's table to the totals; row by row where some rows are locked or refused."""
    for vods in chunks(report.repairable("target"), BATCH_ROWS):
        _repair_target_rows(adjuster, target, [json.loads(ids) for _, ids in vods], report)


def _repair_target_rows(
    adjuster: Adjuster, target: Target, vod_ids_of_rows: Sequence[list[str]], report: DifferenceReport
) -> None:
    plan = TargetPlan(adjuster.connection, target, [vod_id for ids in vod_ids_of_rows for vod_id in ids])
    try:
        flush = adjuster.commit("reconcile_target", plan, plan.write)
    except (StaleRead, psycopg.Error) as error:
        if isinstance(error, psycopg.Error) and not is_row_error(error):
            raise
        if len(vod_ids_of_rows) > 1:
            middle = len(vod_ids_of_rows) // 2
            _repair_target_rows(adjuster, target, vod_ids_of_rows[:middle], report)
            _repair_target_rows(adjuster, target, vod_ids_of_rows[middle:], report)
        return
    _record(report, "target", flush, len(vod_ids_of_rows) - plan.too_large)


def repair_parked(ledger: Ledger, report: DifferenceReport) -> None:
    """Apply the parked views that the target can take."""
    with ledger.connect() as connection:
        if (target := ledger.target(connection)) is None:
            return
        for vods in chunks(report.repairable("parked"), BATCH_ROWS):
            report.repaired["parked"] += apply_parked(connection, target, [vod_id for vod_id, _ in vods]).vods


def _record(report: DifferenceReport, kind: Kind, flush: Flush | None, repaired: int) -> None:
    if flush is not None:
        report.flushes.append(flush.seq)
    report.repaired[kind] += repaired


@dataclass
class TargetPlan:
    """The deltas to some rows of the user's table, and the counts that they were computed from."""

    connection: psycopg.Connection
    target: Target
    vod_ids: list[str]
    counts: dict[str, int] = field(default_factory=dict)
    too_large: int = 0  # totals that the column cannot hold

    def __call__(self) -> dict[str, int]:
        """Read the counts, and return the deltas."""
        rows = self.connection.execute(
            self.target.statement(SQL["target_adjustments"]), {"vod_ids": self.vod_ids}
        ).fetchall()
        self.counts = {vod_id: count for vod_id, _, count, fits in rows if fits}
        self.too_large = len(rows) - len(self.counts)
        return {vod_id: delta for vod_id, delta, _, fits in rows if fits}

    def write(self, connection: psycopg.Connection, flush: Flush) -> FetchTotals:
        """Add the flush to the table. Raises StaleRead where a count has changed since; then nothing is written."""
        return adjust_target_if_unchanged(connection, self.target, flush, self.counts)


def adjust_target_if_unchanged(
    connection: psycopg.Connection, target: Target, flush: Flush, expected_counts: Mapping[str, int]
) -> FetchTotals:
    """Add the batches to the target, all or nothing. Raises StaleRead if a row has not its expected count any more."""
    set_constraints_immediate(connection, LOCK_TIMEOUT)
    ids = [vod_id for batch in flush.batches for vod_id in batch.vod_ids]
    deltas = [delta for batch in flush.batches for delta in batch.deltas]
    params: dict[str, Any] = {"vod_ids": ids, "deltas": deltas, "counts": [expected_counts[vod_id] for vod_id in ids]}
    if connection.execute(target.statement(SQL["adjust_target"]), params).rowcount != len(ids):
        raise StaleRead
    return dict
