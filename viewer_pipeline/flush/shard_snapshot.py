"""What a drain of a cluster has read, and how it becomes flushes: each batch is of one shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from uuid import UUID, uuid4

import numpy as np
import pandas as pd
import psycopg

from viewer_pipeline.flush.aggregate import Aggregate, cut_into_flushes
from viewer_pipeline.flush.cluster_store import as_cluster
from viewer_pipeline.flush.held_views import split_frame
from viewer_pipeline.flush.ledger_row_types import HOLD, Flush
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.shard_settle import Markers, ShardSettler
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.layout import Layout


@dataclass(frozen=True, eq=False)
class ShardedSnapshot(Snapshot):
    """The counters of a cluster as they were read, each shard at its own moment. `marker` is that of the home slot."""

    layout: Layout
    markers: Markers
    read_from: datetime  # by the clock of the home node: nothing was read before

    @property
    def may_have_been_counted(self) -> bool:
        """Whether views of some shard may have been counted before, and are to be held then (rule R16)."""
        return self.request.redis_without_marker == "hold" and any(marker.hold for marker in self.markers.values())

    def settler(self, stores: Stores) -> Settler:
        """Return what settles the flushes of this snapshot."""
        announced_until = self.read_from if self.oldest is not None else None
        return ShardSettler(as_cluster(stores.redis), stores.ledger, self.markers, self.request.run_id, announced_until)

    def parts(self, connection: psycopg.Connection, frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
        """Cut the frame into flushes, each with its mode, rows sorted by shard. Views to be held come last."""
        sharded = frame.assign(shard=self.layout.shards_of_ids(frame["vod_id"].tolist()))
        new, held = sharded, None
        if self.may_have_been_counted:
            is_held = sharded["shard"].isin([shard for shard, marker in self.markers.items() if marker.hold])
            split = split_frame(connection, frame[is_held.to_numpy()])
            shards = dict(zip(sharded["vod_id"], sharded["shard"], strict=True))
            new = pd.concat([sharded[~is_held], split.new.assign(shard=split.new["vod_id"].map(shards))])
            held = split.held.assign(shard=split.held["vod_id"].map(shards))
        for mode, part in ((self.request.mode, new), (HOLD, held)):
            if part is not None and len(part):
                ordered = part.sort_values(["shard", "vod_id"], kind="stable", ignore_index=True)
                for rows in cut_into_flushes(ordered, self.request.flush_max_counters):
                    yield mode, rows

    def plan_flush(self, base: int, after: UUID | None, rows: pd.DataFrame, mode: str) -> Flush:
        """Return the flush that commits these rows: the number after `base`, in batches of one shard each."""
        request, marker = self.request, self.marker
        flush = Flush(
            base + 1, base, uuid4(), request.run_id, mode, self.taken_at, (), after, marker.epoch, marker.timeline
        )
        return flush.with_shards(rows["vod_id"].tolist(), rows["delta"].tolist(), self._slices(rows), self._epochs)

    @cached_property
    def _epochs(self) -> dict[int, str]:
        return {shard: marker.epoch for shard, marker in self.markers.items()}

    def batch_rows(self, rows: pd.DataFrame) -> list[slice]:
        """Return which rows of a flush are in each of its batches: none has counters of two shards."""
        return [batch for batch, _ in self._slices(rows)]

    def _slices(self, rows: pd.DataFrame) -> list[tuple[slice, int]]:
        """Return the batches of these rows, and the shard of each."""
        shards, size = rows["shard"].to_numpy(), self.request.batch_size
        starts = [0, *(np.flatnonzero(shards[1:] != shards[:-1]) + 1).tolist()]
        return [
            (slice(at, min(at + size, end)), shard)
            for start, end, shard in zip(starts, [*starts[1:], len(shards)], shards[starts].tolist(), strict=True)
            for at in range(start, end, size)
        ]

    def clean_changed_set(self, stores: Stores, aggregated: Aggregate) -> None:
        """Remove VODs from the changed set that have nothing to flush. The settler removes those that it settled."""
        redis = as_cluster(stores.redis)
        redis.remove_announced_until(self.read_from, aggregated.idle)
        redis.remove_from_changed_set_anyway(aggregated.rejected)
