"""What a drain has read, and how it becomes flushes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

import pandas as pd
import psycopg

from viewer_pipeline.flush.aggregate import Aggregate, cut_into_flushes
from viewer_pipeline.flush.candidates import Progress
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.held_views import split_frame
from viewer_pipeline.flush.ledger_row_types import HOLD, Flush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.readings import Readings
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.stores import Stores


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The counters as they were read, once everything through flush `base` was settled. Equal only to itself."""

    request: FlushRequest
    base: int
    after: UUID | None  # the newest flush of the ledger at that time
    marker: Marker
    readings: Readings
    taken_at: datetime
    oldest: datetime | None  # when the oldest pending VOD was announced
    progress: Progress
    notes: RunNotes
    seconds: float

    @property
    def may_have_been_counted(self) -> bool:
        """Whether views of these counters may have been counted before, and are to be held then (rule R16)."""
        return bool(self.marker.hold) and self.request.redis_without_marker == "hold"

    @property
    def announced_before(self) -> float:
        """The Unix time before which VODs were announced that runs read until none of them is left."""
        return self.request.announced_before or self.taken_at.timestamp()

    def settler(self, stores: Stores) -> Settler:
        """Return what settles the flushes of this snapshot."""
        return Settler(stores.redis, stores.ledger, self.marker, self.request.run_id)

    def parts(self, connection: psycopg.Connection, frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
        """Cut the frame into flushes, each with its mode. Views that may have been counted before come last."""
        size, mode = self.request.flush_max_counters, self.request.mode
        if not self.may_have_been_counted:
            return ((mode, rows) for rows in cut_into_flushes(frame, size))
        split = split_frame(connection, frame)
        parts = (mode, split.new), (HOLD, split.held)
        return ((mode, rows) for mode, part in parts for rows in cut_into_flushes(part, size))

    def plan_flush(self, base: int, after: UUID | None, rows: pd.DataFrame, mode: str) -> Flush:
        """Return the flush that commits these rows of the frame: the number after `base`, cut into batches."""
        request, marker = self.request, self.marker
        flush = Flush(
            base + 1, base, uuid4(), request.run_id, mode, self.taken_at, (), after, marker.epoch, marker.timeline
        )
        return flush.with_counters(rows["vod_id"].tolist(), rows["delta"].tolist(), request.batch_size)

    def batch_rows(self, rows: pd.DataFrame) -> list[slice]:
        """Return which rows of a flush are in each of its batches."""
        size = self.request.batch_size
        return [slice(start, start + size) for start in range(0, len(rows), size)]

    def clean_changed_set(self, stores: Stores, aggregated: Aggregate) -> None:
        """Remove VODs from the changed set that have nothing to flush. Settling removes those that it emptied."""
        stores.redis.remove_from_changed_set(self.marker.ledger, aggregated.idle, aggregated.rejected)
