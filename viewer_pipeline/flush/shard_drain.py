"""Step 1 in a cluster: of each shard, settle what earlier runs left, then read its counters with its marker."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import psycopg

from viewer_pipeline.errors import MarkerMoved
from viewer_pipeline.flush.candidates import Candidates
from viewer_pipeline.flush.cluster_store import (
    BeginOfDrain,
    ClusterStore,
    ShardReading,
    as_cluster,
    hold_of,
    holds_digest,
    new_epoch,
)
from viewer_pipeline.flush.counter_reader import READ_COUNT
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.garbage_collection import rare_collections
from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_identity import LedgerIdentity
from viewer_pipeline.flush.ledger_reads import pruned_through
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import require_undiverged_shards
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.shard_settle import Markers, settle_shards_through
from viewer_pipeline.flush.shard_snapshot import ShardedSnapshot
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.layout import Layout

DRAIN_TRIES = 3  # how often a run begins again because PostgreSQL was restarted meanwhile
SWEEP_REASON = "Redis had lost the marker of a shard"
DRAIN_ROUNDS = 20  # how often shards are read again because the ledger grew, or had batches that were not settled


@dataclass
class Drain:
    """The state of one drain: which shards are read, at which end of the ledger."""

    redis: ClusterStore
    ledger: Ledger
    connection: psycopg.Connection
    request: FlushRequest
    identity: LedgerIdentity  # as the registry has it
    last: LastFlush
    floor: int = 0
    excluded: dict[int, str] = field(default_factory=dict)
    readings: dict[int, ShardReading] = field(default_factory=dict)
    emptied: bool = False
    rolled_back: bool = False
    settled_before: int = 0
    notes: RunNotes = field(default_factory=RunNotes)

    def read(self, ids: Mapping[int, Sequence[bytes]]) -> None:
        """Read the counters of all these shards, so that the ledger has nothing of theirs that is not settled.

        `base` is fixed before, and again if a marker is above it (rules R3, R6, R12).
        """
        pending, seen = dict(ids), dict[int, str]()
        for _ in range(DRAIN_ROUNDS):
            drained = self.redis.drain_shards(pending, self._begin_of_drain(), seen)
            self.exclude(drained.excluded)
            markers = {shard: reading.marker for shard, reading in drained.readings.items()}
            self.emptied |= self.last.seq > 0 and any(reading.is_new for reading in drained.readings.values())
            other = {
                shard: marker.timeline for shard, marker in markers.items() if marker.timeline != self.last.timeline
            }
            if other or any(marker.seq > self.last.seq for marker in markers.values()):
                newest = self.ledger.last_flush(self.connection)
                if other or newest.seq > self.last.seq:
                    seen, self.last, self.readings = seen | other, newest, {}
                    pending = {shard: raws for shard, raws in ids.items() if shard not in self.excluded}
                    continue
                self.rolled_back = True
            newest_before = require_undiverged_shards(
                self.connection, self._beyond_the_last(markers), self.identity.place, self.redis.layout
            )
            markers = {shard: self._with_missing(marker, newest_before) for shard, marker in markers.items()}
            unsettled = self._settle(markers)
            for shard, reading in drained.readings.items():
                if shard not in unsettled and shard not in self.excluded:
                    is_same = reading.marker is markers[shard]
                    self.readings[shard] = reading if is_same else reading._replace(marker=markers[shard])
            pending = {
                shard: raws for shard, raws in pending.items() if shard in unsettled and shard not in self.excluded
            }
            if not pending:
                return
        raise MarkerMoved(f"{len(pending)} shards were settled by other runs again and again while they were read")

    def _begin_of_drain(self) -> BeginOfDrain:
        """Return the arguments of a read, with another epoch than before: a shard may lose the marker of this run."""
        return BeginOfDrain(self.request.run_id, self.last, self.identity, new_epoch())

    def run_notes(self) -> RunNotes:
        """Return what the run is to report."""
        return self.notes + RunNotes(
            settled_before=self.settled_before,
            redis_emptied=self.emptied,
            postgres_rolled_back=self.rolled_back,
            excluded_shards=len(self.excluded),
            exclusion=next(iter(self.excluded.values()), ""),
        )

    def missed(self, slots_before: tuple[str, str]) -> str:
        """Return why counters may be missing in what was scanned since; empty if all are there."""
        if reason := next(filter(None, [*self.excluded.values(), *self.redis.unscanned.values(), slots_before[1]]), ""):
            return reason
        slots, obstacle = self.redis.slots_at_nodes()
        return obstacle or ("slots have moved meanwhile" if slots != slots_before[0] else "")

    def exclude(self, excluded: Mapping[int, str]) -> None:
        """Leave these shards to the next run, each for its reason (rule R13)."""
        self.excluded.update(excluded)
        for shard in excluded:
            self.readings.pop(shard, None)

    def _beyond_the_last(self, markers: Mapping[int, Marker]) -> Markers:
        """Return the markers that do not simply stand at the newest flush of the ledger."""
        last = self.last.seq, str(self.last.flush_id or "")
        return {
            shard: marker
            for shard, marker in markers.items()
            if (marker.seq, marker.flush_id) != last or any(marker.missing_flushes)
        }

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
        self.exclude(settled.unreached)
        self.settled_before += settled.batches
        self.notes += settled.notes
        moved = {shard for shard, marker in settled.markers.items() if marker != markers[shard]}
        return moved | self._hold_what_is_behind_retention(settled.markers)

    def _hold_what_is_behind_retention(self, markers: Mapping[int, Marker]) -> set[int]:
        """Advance markers that stand before flushes which retention has deleted: their views may have been counted."""
        pruned = pruned_through(self.connection, self.ledger.stream)
        behind = {shard: marker for shard, marker in markers.items() if marker.seq < pruned}
        if not behind:
            return set()
        batches = [self.last.end_of_shard(shard, marker.epoch, holds=True) for shard, marker in behind.items()]
        self.exclude(self.redis.settle_shards(behind, batches).unreached)
        return set(behind)


def drain_shards(stores: Stores, request: FlushRequest) -> Snapshot:
    """Settle what earlier runs left in the shards of this run, then read their counters.

    Writes nothing but markers. A shard that does not answer, perhaps because it migrates, is left out: its counters
    are in Redis, and the next run takes them (rule R13).
    """
    with rare_collections():
        for _ in range(DRAIN_TRIES):
            if snapshot := _drain_once(stores, request):
                return snapshot
    raise MarkerMoved("the timeline of PostgreSQL changed while counters were read, again and again")


def _drain_once(stores: Stores, request: FlushRequest) -> Snapshot | None:
    """Drain; None if PostgreSQL was restarted meanwhile, so that other shards may be ahead of the ledger."""
    started = time.perf_counter()
    as_cluster(stores.redis).unscanned.clear()
    with as_cluster(stores.redis).on_one_connection() as redis, stores.ledger.connect() as connection:
        stores.ledger.target(connection)  # before anything is written: the table may be unusable
        stores.ledger.require_standbys(connection)
        drain, home = begin_drain(redis, stores.ledger, connection, request)
        timeline = drain.last.timeline
        read_from = redis.now()  # before the changed set is: what is announced later stays in it
        _, oldest = redis.changed_set_size_and_oldest()
        holds = redis.holds() if request.mode == "sweep" else {}
        server = redis.server_run_id() if request.mode == "sweep" else ""
        slots_before = redis.slots_at_nodes() if request.mode == "sweep" else ("", "")
        candidates = Candidates(stores.redis, server, request, home._replace(hold=holds_digest(holds)))
        drain.read(_by_shard(redis.layout, candidates))
        if drain.last.timeline != timeline:
            return None
        drain.exclude(redis.wait_until_shards_durable(drain.readings))
        drain.excluded |= redis.unscanned_shards()
        readings = redis.validated(_pages(drain.readings.values()))
        taken_at, progress = redis.now(), candidates.progress
        notes = replace(drain.run_notes(), sweep_restarted=progress.sweep_restarted)
        if progress.part is not None and (missed := drain.missed(slots_before)):
            progress = replace(progress, part=progress.part.incomplete())
            notes = replace(notes, sweep_incomplete=missed)
        record_incidents(connection, notes, request.run_id)
    markers = {shard: reading.marker for shard, reading in drain.readings.items()}
    as_cluster(stores.redis).record_holds({s: m for s, m in markers.items() if m.hold and hold_of(m) != holds.get(s)})
    if request.mode != "sweep" and any(marker.hold for marker in markers.values()):
        stores.redis.request_sweep_unless_requested(SWEEP_REASON)
    return ShardedSnapshot(
        request,
        max([drain.last.seq, drain.floor, *(marker.seq for marker in markers.values())]),
        drain.last.flush_id,
        home._replace(timeline=timeline),
        readings,
        taken_at,
        oldest,
        progress,
        notes,
        time.perf_counter() - started,
        redis.layout,
        markers,
        read_from,
    )


def begin_drain(
    redis: ClusterStore, ledger: Ledger, connection: psycopg.Connection, request: FlushRequest
) -> tuple[Drain, Marker]:
    """Claim the prefix, and see to it that every shard has a marker of this timeline before anything is read.

    So a marker that is missing later was lost. And no number is given again after PostgreSQL was rolled back: it is
    above the `floor`, the highest number of any marker (rule R6), also of that of the home slot.
    """
    identity, last = ledger.identity(connection), ledger.last_flush(connection)
    _, home = redis.begin(request.run_id, last, identity)
    stored = identity._replace(system=home.ledger.split("/")[1])  # as the registry has it: it may be unknown there
    drain = Drain(redis, ledger, connection, request, stored, last)
    prepared_for, drain.floor = redis.prepared()
    drain.floor = max(drain.floor, home.seq)
    if prepared_for != last.timeline:
        drain.read(dict.fromkeys(redis.layout.shards, ()))
        drain.floor = max([drain.floor, *(reading.marker.seq for reading in drain.readings.values())])
        drain.exclude(redis.wait_until_shards_durable(drain.readings))  # else a marker may fall back
        if not drain.excluded:
            redis.set_prepared(drain.last.timeline, drain.floor)
        drain.readings, drain.excluded = {}, {}
    return drain, home


def _by_shard(layout: Layout, pages: Iterable[Sequence[bytes]]) -> dict[int, list[bytes]]:
    """Group raw ids by shard. SCAN may return one twice: then it is read twice, and the last reading counts."""
    by_shard = defaultdict[int, list[bytes]](list)
    for page in pages:
        for raw, shard in zip(page, layout.shards_of_raw_ids(page), strict=True):
            by_shard[shard].append(raw)
    return by_shard


def _pages(readings: Iterable[ShardReading]) -> Iterator[tuple[list[bytes], list[bytes | None]]]:
    """Return what was read, in pages of several shards: to validate a page costs more than to validate its counters."""
    ids, values = list[bytes](), list[bytes | None]()
    for reading in readings:
        ids += reading.ids
        values += reading.raw_values
        if len(ids) >= READ_COUNT:
            yield ids, values
            ids, values = [], []
    if ids:
        yield ids, values
