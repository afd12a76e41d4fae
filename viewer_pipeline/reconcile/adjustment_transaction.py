"""One adjustment: a transaction that is itself a flush of the ledger, and subtracts nothing from Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID, uuid4

import psycopg

from viewer_pipeline.flush.all_shards import ensure_shard_markers
from viewer_pipeline.flush.drain import ensure_marker
from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.ledger_row_types import Flush, LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import read_own_marker
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.settle import settle_through
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.totals_channel import publish_totals
from viewer_pipeline.target.add_or_park import FetchTotals

AdjustmentMode = Literal["reconcile", "reconcile_target", "count_held"]
MAX_ATTEMPTS = 20  # how often it reads again because another flush committed first


class StaleRead(Exception):
    """The rows that the adjustment was computed from have changed since they were read."""


@dataclass
class Adjuster:
    """Commits adjustments for one run, in the stream of `stores`, whichever stream the VODs belong to."""

    stores: Stores
    connection: psycopg.Connection
    run_id: str
    batch_size: int
    postgres_rollback_recorded: bool = False

    def commit(
        self,
        mode: AdjustmentMode,
        plan: Callable[[], Mapping[str, int]],
        upsert: Callable[[psycopg.Connection, Flush], FetchTotals],
        flush_id: UUID | None = None,
    ) -> Flush | None:
        """Commit the deltas that `plan` returns, in one transaction; return None where it returns none.

        `plan` is called after the base was fixed. If another flush commits after that, the claim fails and `plan` is
        called again. Raises StaleRead after MAX_ATTEMPTS; `upsert` may raise it as well.
        """
        self.stores.ledger.require_standbys(self.connection)
        for _ in range(MAX_ATTEMPTS):
            last, marker = self._position()
            deltas = plan()
            if not deltas:
                return None
            if marker and marker.seq > last.seq:  # this flush hides the rollback from later runs
                self._record_postgres_rollback()
            flush = self._flush(mode, last, marker, deltas, flush_id or uuid4())
            try:
                fetch_totals = self.stores.ledger.commit(self.connection, flush, upsert)
            except StaleRead:
                continue
            if fetch_totals is not None:
                self._settle(flush, fetch_totals)
                return flush
            if flush_id is not None and self.stores.ledger.has_committed(flush_id):
                return None  # another process has committed this very adjustment
        raise StaleRead

    def _position(self) -> tuple[LastFlush, Marker | None]:
        """Return the newest flush, and the marker of the same timeline that is furthest."""
        redis, ledger = self.stores.redis, self.stores.ledger
        if redis.layout.cluster:
            last, marker, _ = ensure_shard_markers(redis, ledger, self.connection, self.run_id)
            return last, marker
        own = read_own_marker(redis, ledger, self.connection)
        last = ledger.last_flush(self.connection)
        if own and own.timeline != last.timeline:
            last, own, _ = ensure_marker(redis, ledger, self.connection, self.run_id)
        return last, own

    def _flush(
        self, mode: str, last: LastFlush, marker: Marker | None, deltas: Mapping[str, int], flush_id: UUID
    ) -> Flush:
        base, epoch = (max(last.seq, marker.seq), marker.epoch) if marker else (last.seq, "")
        ids = sorted(deltas)
        at, after, timeline = datetime.now(UTC), last.flush_id, last.timeline
        flush = Flush(base + 1, base, flush_id, self.run_id, mode, at, (), after, epoch, timeline)
        return flush.with_counters(ids, [deltas[vod_id] for vod_id in ids], self.batch_size)

    def _settle(self, flush: Flush, fetch_totals: FetchTotals) -> None:
        """Advance the marker, also past unsettled flushes of other runs. If this process dies, the next run does it.

        In a cluster there is nothing to do: an adjustment has no batch in any shard.
        """
        redis, ledger = self.stores.redis, self.stores.ledger
        if not redis.layout.cluster and (marker := read_own_marker(redis, ledger, self.connection)):
            settled = settle_through(redis, ledger, self.connection, marker, flush.seq)
            record_incidents(self.connection, settled.notes, self.run_id)
        publish_totals(redis, flush, fetch_totals)

    def _record_postgres_rollback(self) -> None:
        """Record once that the marker was ahead of the ledger."""
        if not self.postgres_rollback_recorded:
            record_incidents(self.connection, RunNotes(postgres_rolled_back=True), self.run_id)
            self.postgres_rollback_recorded = True
