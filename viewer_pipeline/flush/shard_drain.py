"""Step 1 in a cluster: of each shard, settle what earlier runs left, then read its counters with its marker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from uuid import UUID, uuid4

import pandas as pd
import psycopg

from viewer_pipeline.errors import MarkerMoved
from viewer_pipeline.flush.aggregate import Aggregate, cut_into_flushes
from viewer_pipeline.flush.candidates import Candidates
from viewer_pipeline.flush.cluster_store import BeginOfDrain, ClusterStore, ShardReading, holds_digest, new_epoch
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.held_views import split_frame
from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_identity import LedgerIdentity
from viewer_pipeline.flush.ledger_reads import last_flush, pruned_through
from viewer_pipeline.flush.ledger_row_types import HOLD, Batch, Flush, LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import require_undiverged_shards
from viewer_pipeline.flush.readings import Readings
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.shard_settle import Markers, ShardSettler, settle_shards_through
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.layout import SHARDS, Layout, slot_of_shard

DRAIN_ROUNDS = 20  # how often shards are read again because the ledger grew, or had batches that were not settled


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
        assert isinstance(stores.redis, ClusterStore)
        return ShardSettler(stores.redis, stores.ledger, self.markers, self.marker, self.request.run_id)

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
        epochs = {shard: marker.epoch for shard, marker in self.markers.items()}
        return flush.with_shards(rows["vod_id"].tolist(), rows["delta"].tolist(), self._slices(rows), epochs)

    def batch_rows(self, rows: pd.DataFrame) -> list[slice]:
        """Return which rows of a flush are in each of its batches: none has counters of two shards."""
        return [batch for batch, _ in self._slices(rows)]

    def _slices(self, rows: pd.DataFrame) -> list[tuple[slice, int]]:
        """Return the batches of these rows, and the shard of each."""
        slices, start = list[tuple[slice, int]](), 0
        for shard, same in groupby(rows["shard"].tolist()):
            end = start + sum(1 for _ in same)
            slices += [
                (slice(at, min(at + self.request.batch_size, end)), shard)
                for at in range(start, end, self.request.batch_size)
            ]
            start = end
        return slices

    def clean_changed_set(self, stores: Stores, aggregated: Aggregate) -> None:
        """Remove all VODs that this run has read, unless they were announced again since."""
        assert isinstance(stores.redis, ClusterStore)
        read = [*aggregated.frame["vod_id"], *aggregated.idle]
        stores.redis.remove_announced_until(self.read_from, read)
        stores.redis.remove_announced_until(datetime.now(UTC) + timedelta(days=1), aggregated.rejected)


@dataclass
class _Drain:
    """The state of one drain: which shards are read, at which end of the ledger."""

    redis: ClusterStore
    ledger: Ledger
    connection: psycopg.Connection
    request: FlushRequest
    identity: LedgerIdentity  # as the registry has it
    last: LastFlush
    floor: int
    excluded: dict[int, str] = field(default_factory=dict)
    readings: dict[int, ShardReading] = field(default_factory=dict)
    emptied: bool = False
    rolled_back: bool = False
    settled_before: int = 0
    notes: RunNotes = field(default_factory=RunNotes)
    epoch: str = field(default_factory=new_epoch)

    def read(self, ids: Mapping[int, Sequence[bytes]]) -> None:
        """Read the counters of all these shards, so that the ledger has nothing of theirs that is not settled.

        `base` is fixed before, and again if a marker is above it (rules R3, R6, R12).
        """
        pending, seen = dict(ids), dict[int, str]()
        for _ in range(DRAIN_ROUNDS):
            drained = self.redis.drain_shards(pending, self._begin_of_drain(), seen)
            self._exclude(drained.excluded)
            markers = {shard: reading.marker for shard, reading in drained.readings.items()}
            self.emptied |= self.last.seq > 0 and any(reading.is_new for reading in drained.readings.values())
            other = {
                shard: marker.timeline for shard, marker in markers.items() if marker.timeline != self.last.timeline
            }
            if other or any(marker.seq > self.last.seq for marker in markers.values()):
                newest = last_flush(self.connection)
                if other or newest.seq > self.last.seq:
                    seen, self.last, self.readings = seen | other, newest, {}
                    pending = {shard: raws for shard, raws in ids.items() if shard not in self.excluded}
                    continue
                self.rolled_back = True
            newest_before = require_undiverged_shards(
                self.connection, self._beyond_the_last(markers), self.identity.place
            )
            markers = {shard: self._with_missing(marker, newest_before) for shard, marker in markers.items()}
            unsettled = self._settle(markers)
            for shard, reading in drained.readings.items():
                if shard not in unsettled and shard not in self.excluded:
                    self.readings[shard] = reading._replace(marker=markers[shard])
            pending = {
                shard: raws for shard, raws in pending.items() if shard in unsettled and shard not in self.excluded
            }
            if not pending:
                return
        raise MarkerMoved(f"{len(pending)} shards were settled by other runs again and again while they were read")

    def _begin_of_drain(self) -> BeginOfDrain:
        return BeginOfDrain(self.request.run_id, self.last, self.identity, self.epoch)

    def _exclude(self, excluded: Mapping[int, str]) -> None:
        self.excluded.update(excluded)
        for shard in excluded:
            self.readings.pop(shard, None)

    def _beyond_the_last(self, markers: Mapping[int, Marker]) -> list[Marker]:
        """Return the markers that do not simply stand at the newest flush of the ledger."""
        last = self.last.seq, str(self.last.flush_id or "")
        return [
            marker
            for marker in markers.values()
            if (marker.seq, marker.flush_id) != last or any(marker.missing_flushes)
        ]

    def _with_missing(self, marker: Marker, newest_before: Mapping[int, int]) -> Marker:
        """Return the marker with the flushes up to its own that the ledger lacks: PostgreSQL was rolled back."""
        if marker.seq > self.last.seq:
            return marker._replace(missing_flushes=(self.last.seq, marker.seq))
        if (newest := newest_before.get(marker.seq)) is not None:
            return marker._replace(missing_flushes=(newest, marker.seq))
        return marker

    def _settle(self, markers: Markers) -> set[int]:
        """Settle what the ledger has of these shards beyond their markers; return the shards that had something."""
        behind = {shard: marker for shard, marker in markers.items() if marker.seq <= self.last.seq}
        settled = settle_shards_through(self.redis, self.ledger, self.connection, behind, self.last.seq)
        self._exclude(settled.unreached)
        self.settled_before += settled.batches
        self.notes += settled.notes
        moved = {shard for shard, marker in settled.markers.items() if marker != markers[shard]}
        return moved | self._hold_what_is_behind_retention(settled.markers)

    def _hold_what_is_behind_retention(self, markers: Mapping[int, Marker]) -> set[int]:
        """Advance markers that stand before flushes which retention has deleted: their views may have been counted."""
        pruned = pruned_through(self.connection)
        behind = {shard: marker for shard, marker in markers.items() if marker.seq < pruned}
        if not behind:
            return set()
        end = self.last
        batches = [
            Batch(
                end.seq,
                end.batches,
                end.batches,
                datetime.now().astimezone(),
                [],
                [],
                marker.epoch,
                str(end.flush_id),
                holds=True,
                shard=shard,
            )
            for shard, marker in behind.items()
        ]
        self._exclude(self.redis.settle_shards(behind, batches).unreached)
        return set(behind)


def drain_shards(stores: Stores, request: FlushRequest) -> Snapshot:
    """Settle what earlier runs left in the shards of this run, then read their counters.

    Writes nothing but markers. A shard that does not answer, perhaps because it migrates, is left out: its counters
    are in Redis, and the next run takes them (rule R13).
    """
    assert isinstance(stores.redis, ClusterStore)
    started = time.perf_counter()
    with stores.redis.on_one_connection() as redis, stores.ledger.connect() as connection:
        stores.ledger.target(connection)  # before anything is written: the table may be unusable
        stores.ledger.require_standbys(connection)
        drain, home = _begin(redis, stores.ledger, connection, request)
        _, oldest = redis.changed_set_size_and_oldest()
        read_from = redis.now()
        holds = redis.holds() if request.mode == "sweep" else {}
        server = redis.server_run_id() if request.mode == "sweep" else ""
        candidates = Candidates(stores.redis, server, request, home._replace(hold=holds_digest(holds)))
        drain.read(_by_shard(redis.layout, candidates))
        _exclude_broken(drain, redis)
        readings = _readings(redis, drain)
        taken_at = redis.now()
        notes = drain.notes + RunNotes(
            settled_before=drain.settled_before,
            redis_emptied=drain.emptied,
            postgres_rolled_back=drain.rolled_back,
            excluded_shards=len(drain.excluded),
            exclusion=next(iter(drain.excluded.values()), ""),
            sweep_restarted=candidates.progress.sweep_restarted,
        )
        record_incidents(connection, notes, request.run_id)
    markers = {shard: reading.marker for shard, reading in drain.readings.items()}
    if request.mode != "sweep" and any(marker.hold for marker in markers.values()):
        stores.redis.request_sweep_unless_requested("Redis had lost markers")
    base = max([drain.last.seq, drain.floor, *(marker.seq for marker in markers.values())])
    progress = replace(candidates.progress, part=None) if drain.excluded else candidates.progress
    seconds = time.perf_counter() - started
    return ShardedSnapshot(
        request,
        base,
        drain.last.flush_id,
        home,
        readings,
        taken_at,
        oldest,
        progress,
        notes,
        seconds,
        redis.layout,
        markers,
        read_from,
    )


def _begin(
    redis: ClusterStore, ledger: Ledger, connection: psycopg.Connection, request: FlushRequest
) -> tuple[_Drain, Marker]:
    """Claim the prefix, and see to it that every shard has a marker of this timeline before anything is read.

    So a marker that is missing later was lost, and no number is given again after PostgreSQL was rolled back: above all
    of them is `floor`.
    """
    identity, last = ledger.identity(connection), last_flush(connection)
    _, home = redis.begin(request.run_id, last, identity)
    stored = identity._replace(system=home.ledger.split("/")[1])  # as the registry has it: it may be unknown there
    drain = _Drain(redis, ledger, connection, request, stored, last, 0)
    prepared_for, drain.floor = redis.prepared()
    if prepared_for != last.timeline:
        everything = _Drain(redis, ledger, connection, request, stored, last, 0)
        everything.read(dict.fromkeys(SHARDS, ()))
        drain.notes, drain.emptied, drain.rolled_back = everything.notes, everything.emptied, everything.rolled_back
        drain.last, drain.settled_before = everything.last, everything.settled_before
        drain.floor = max([drain.floor, *(reading.marker.seq for reading in everything.readings.values())])
        if not everything.excluded:
            redis.set_prepared(drain.last.timeline, drain.floor)
    return drain, home._replace(timeline=drain.last.timeline)


def _by_shard(layout: Layout, pages: Iterable[Sequence[bytes]]) -> dict[int, list[bytes]]:
    """Group raw ids by shard, each once."""
    by_shard = dict[int, dict[bytes, None]]()
    for page in pages:
        for raw in page:
            by_shard.setdefault(layout.shard_of(layout.names.prefix.encode() + raw), {})[raw] = None
    return {shard: list(raws) for shard, raws in by_shard.items()}


def _exclude_broken(drain: _Drain, redis: ClusterStore) -> None:
    """Wait until what was read is durable; exclude the shards of nodes that broke meanwhile (rule R7)."""
    broken = redis.wait_until_shards_durable()
    owners = redis.nodes.map.owners()
    for shard in list(drain.readings):
        if (owner := owners[slot_of_shard(shard)]) in broken:
            drain.excluded[shard] = broken[owner]
            del drain.readings[shard]


def _readings(redis: ClusterStore, drain: _Drain) -> Readings:
    """Return the counters of all shards that were read."""
    return redis.validated((reading.ids, reading.raw_values) for reading in drain.readings.values() if reading.ids)
