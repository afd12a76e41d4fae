"""Settling in a cluster: as settle.py, of many shards at once. Each shard has its own marker and its own next batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import psycopg

from viewer_pipeline.errors import MarkerMoved
from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import read_batches_of_shards_after
from viewer_pipeline.flush.ledger_row_types import Batch, Flush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import require_undiverged_shards
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.settle import (
    MARKER_TRIES,
    PAGE_SIZE,
    Settler,
    require_same_ledger,
    require_same_timeline,
    require_timeline,
    settling_notes,
    skip_other_epochs,
)
from viewer_pipeline.layout import Layout

Markers = dict[int, Marker]  # by shard


class ShardsSettledThrough(NamedTuple):
    """The result of settling from the ledger. `unreached`: shards that did not answer, with the reason."""

    markers: Markers
    unreached: dict[int, str]
    batches: int
    notes: RunNotes


def settle_shards_through(
    redis: ClusterStore, ledger: Ledger, connection: psycopg.Connection, markers: Mapping[int, Marker], through: int
) -> ShardsSettledThrough:
    """Subtract what the ledger holds of these shards beyond the marker of each, through flush `through`.

    A shard that does not answer is left out. Raises MarkerMoved if other runs keep moving a marker, or PostgreSQL may
    have lost flushes; NotReplicated if standbys do not have a flush in time (rule R18).
    """
    settled, left, unreached = dict(markers), dict(markers), dict[int, str]()
    refusals, batches, notes = 0, 0, RunNotes()
    while True:
        positions = {shard: marker[:2] for shard, marker in left.items()}
        due, timeline = read_batches_of_shards_after(connection, positions, through, PAGE_SIZE)
        if not due:
            return ShardsSettledThrough(settled, unreached, batches, notes)
        for batch in due:
            require_timeline(left[batch.shard], timeline)
        newest = max(due, key=lambda batch: batch.seq)
        ledger.wait_for_standbys(connection, newest.seq, newest.flush_id)
        step = settle_due(redis, connection, left, due)
        notes, batches = notes + step.notes, batches + step.batches
        refusals += step.refused
        if refusals > MARKER_TRIES:
            raise MarkerMoved(f"while settling shards up to flush {through}")
        settled |= step.markers
        unreached |= step.unreached
        touched = {batch.shard for batch in due}
        left = {
            shard: settled[shard]
            for shard in left
            if shard not in unreached and (shard in touched or len(due) == PAGE_SIZE)
        }
        settled = {shard: marker for shard, marker in settled.items() if shard not in unreached}


class SettledDue(NamedTuple):
    """The result of one attempt. `refused`: whether a marker was elsewhere than expected; it was read again then."""

    markers: Markers
    unreached: dict[int, str]
    refused: bool
    batches: int
    notes: RunNotes


def settle_due(
    redis: ClusterStore, connection: psycopg.Connection, markers: Mapping[int, Marker], due: Sequence[Batch]
) -> SettledDue:
    """Settle batches that follow these markers; batches of another epoch than that of the marker are skipped."""
    ours = [skip_other_epochs(batch, markers[batch.shard]) for batch in due]
    result = redis.settle_shards({batch.shard: markers[batch.shard] for batch in due}, ours)
    moved = own_markers(redis.layout, connection, markers, result.refused)
    unfinished = result.refused.keys() | result.unreached.keys()
    skipped = sum(
        sum(batch.deltas)
        for batch in due
        if batch.epoch != markers[batch.shard].epoch and batch.shard not in unfinished
    )
    notes = settling_notes(result.already, result.drift, result.drifted) + RunNotes(skipped_views=skipped)
    done = sum(batch.shard not in unfinished for batch in due)
    return SettledDue({**result.markers, **moved}, result.unreached, bool(result.refused), done, notes)


def own_markers(
    layout: Layout, connection: psycopg.Connection, before: Mapping[int, Marker], after: Mapping[int, Marker | None]
) -> Markers:
    """Return the markers that stand in the place of others, as long as this run may settle on from them.

    Raises MarkerMoved if one is gone or has another timeline; PipelineRefused if it was given to another ledger
    meanwhile, or a copy of this ledger has settled there.
    """
    markers = Markers()
    for shard, marker in after.items():
        if marker is None:
            raise MarkerMoved(f"that of shard {shard} vanished before it was settled")
        require_same_ledger(before[shard], marker)
        require_same_timeline(before[shard], marker)
        markers[shard] = marker
    require_undiverged_shards(connection, markers, "this database", layout)
    return markers


class ShardSettler(Settler):
    """Settles the flushes of a run in a cluster. A shard that does not answer is left to the next run, and noted."""

    def __init__(
        self,
        redis: ClusterStore,
        ledger: Ledger,
        markers: Mapping[int, Marker],
        run_id: str,
        announced_until: datetime | None,
    ) -> None:
        """`announced_until`: settled VODs announced later stay in the changed set; None if that was empty."""
        super().__init__(redis, ledger, Marker(0, 0, 0), run_id)
        self._cluster, self._markers, self._announced_until = redis, dict(markers), announced_until
        self._unsettled_shards = set[int]()

    def _settle(self, flush: Flush) -> None:
        self._wait_for_standbys(flush)
        batches = [batch for batch in flush.batches if batch.shard not in self._unsettled_shards]
        result = self._cluster.settle_shards({batch.shard: self._markers[batch.shard] for batch in batches}, batches)
        self.notes += settling_notes(result.already, result.drift, result.drifted)
        self._markers |= result.markers
        self._leave(result.unreached)
        if result.refused:
            self._settle_from_ledger(result.refused, flush.seq)
        if self._announced_until is not None:
            settled = (batch for batch in batches if batch.shard not in self._unsettled_shards)
            ids = [vod_id for batch in settled for vod_id in batch.vod_ids]
            self._cluster.remove_announced_until(self._announced_until, ids)

    def _settle_from_ledger(self, refused: Mapping[int, Marker | None], through: int) -> None:
        """Continue where the markers of these shards stand now: another run settles them, too, or they were emptied."""
        with self._ledger.connect() as connection:
            markers = own_markers(self._cluster.layout, connection, self._markers, refused)
            settled = settle_shards_through(self._cluster, self._ledger, connection, markers, through)
        self.notes += settled.notes
        self._markers |= settled.markers
        self._leave(settled.unreached)

    def _leave(self, unreached: Mapping[int, str]) -> None:
        new = unreached.keys() - self._unsettled_shards
        self._unsettled_shards |= new
        if new:
            self.notes += RunNotes(unsettled_shards=len(new))
