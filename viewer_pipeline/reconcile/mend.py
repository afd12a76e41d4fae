"""Mending: totals to what the history says, the target to what the totals say. Each transaction is in the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from viewer_pipeline.flush.ledger import Flush, Totals, adjust_totals
from viewer_pipeline.reconcile.adjust import Adjuster, Changed
from viewer_pipeline.reconcile.journal import Journal
from viewer_pipeline.reconcile.totals import Basis
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.queries import named_queries
from viewer_pipeline.target.table import Target
from viewer_pipeline.target.upsert import LOCK_TIMEOUT, blames_rows, hold_all_to_their_word

SQL = named_queries(__name__)

AT_ONCE = 1000  # VODs in one transaction


def mend_totals(adjuster: Adjuster, journal: Journal, basis: Basis) -> None:
    """Set totals to what history and ledger say now. What cannot be explained stays as it is."""
    for some in chunks(journal.mendable("total"), AT_ONCE):
        plan = _TotalsPlan(adjuster.connection, basis, some)
        try:
            flush = adjuster.commit("reconcile", plan, adjust_totals)
        except Changed:
            continue  # other runs were first, again and again
        _note(journal, flush)
        journal.mended["total"] += len(some) - plan.left


@dataclass
class _TotalsPlan:
    """What must be added to the totals of some VODs, read anew each time it is asked."""

    connection: psycopg.Connection
    basis: Basis
    vods: Sequence[tuple[str, str]]  # id and history up to the basis
    left: int = 0  # that nothing explains any more

    def __call__(self) -> dict[str, int]:
        rows = self.connection.execute(
            SQL["total_adjustments"],
            {
                "vod_ids": [vod_id for vod_id, _ in self.vods],
                "history": [int(history) for _, history in self.vods],
                "seq": self.basis.seq,
                "unnamed": self.basis.unnamed,
            },
        ).fetchall()
        self.left = sum(not fits for _, _, fits in rows)
        return {vod_id: int(delta) for vod_id, delta, fits in rows if fits}


def mend_target(adjuster: Adjuster, target: Target, journal: Journal) -> None:
    """Set counts of the user's table to the totals, row by row where some of them are locked or refused."""
    for some in chunks(journal.mendable("target"), AT_ONCE):
        _mend_rows(adjuster, target, [json.loads(basis) for _, basis in some], journal)


def _mend_rows(adjuster: Adjuster, target: Target, rows: Sequence[list[str]], journal: Journal) -> None:
    plan = TargetPlan(adjuster.connection, target, [vod_id for ids in rows for vod_id in ids])
    try:
        flush = adjuster.commit("reconcile_target", plan, plan.write)
    except (Changed, psycopg.Error) as error:
        if isinstance(error, psycopg.Error) and not blames_rows(error):
            raise
        if len(rows) > 1:
            middle = len(rows) // 2
            _mend_rows(adjuster, target, rows[:middle], journal)
            _mend_rows(adjuster, target, rows[middle:], journal)
        return
    _note(journal, flush)
    journal.mended["target"] += len(rows) - plan.left


@dataclass
class TargetPlan:
    """What must be added to some rows of the user's table, and the counts that this was reckoned from."""

    connection: psycopg.Connection
    target: Target
    vod_ids: list[str]
    seen: dict[str, int] = field(default_factory=dict)
    left: int = 0  # that the column has no room for

    def __call__(self) -> dict[str, int]:
        """Read what must be added now."""
        rows = self.connection.execute(
            self.target.statement(SQL["target_adjustments"]), {"vod_ids": self.vod_ids}
        ).fetchall()
        self.seen = {vod_id: count for vod_id, _, count, fits in rows if fits}
        self.left = len(rows) - len(self.seen)
        return {vod_id: int(delta) for vod_id, delta, _, fits in rows if fits}

    def write(self, connection: psycopg.Connection, flush: Flush) -> Totals:
        """Add a flush to the table. Raises Changed where a count is not what was seen, so that nothing is written."""
        return write_target(connection, self.target, flush, self.seen)


def write_target(connection: psycopg.Connection, target: Target, flush: Flush, seen: Mapping[str, int]) -> Totals:
    """Add the batches to rows whose counts are as they were seen: all of them, or Changed."""
    hold_all_to_their_word(connection, LOCK_TIMEOUT)
    ids = [vod_id for batch in flush.batches for vod_id in batch.vod_ids]
    deltas = [delta for batch in flush.batches for delta in batch.deltas]
    parameters: dict[str, Any] = {"vod_ids": ids, "deltas": deltas, "seen": [seen[vod_id] for vod_id in ids]}
    if connection.execute(target.statement(SQL["adjust_target"]), parameters).rowcount != len(ids):
        raise Changed
    return dict


def _note(journal: Journal, flush: Flush | None) -> None:
    if flush is not None:
        journal.flushes.append(flush.seq)
