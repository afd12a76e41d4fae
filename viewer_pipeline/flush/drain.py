"""Step 1, drain: settle what earlier runs left, then read the counters. Rules: docs/flush-protocol.md."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import psycopg

from viewer_pipeline.errors import MarkerMoved
from viewer_pipeline.flush.candidates import Candidates
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import require_undiverged_history
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.settle import settle_through
from viewer_pipeline.flush.shard_drain import drain_shards
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.logs import event

log = logging.getLogger("viewer_pipeline.drain")

SWEEP_REASON = "Redis had lost its marker"
DRAIN_TRIES = 3  # how often a run reads again because Redis was emptied or fell back meanwhile


def drain(stores: Stores, request: FlushRequest) -> Snapshot:
    """Settle what earlier runs left, then read the counters.

    Writes nothing but the marker. `base` is fixed, and everything through it settled, before the first counter is read
    (rules R3, R6). Redis has accepted a write before anything can be committed (R11), and has made durable what was
    read, if that is configured (R7). All of it on one connection.
    """
    request = replace(request, stream=stores.ledger.stream)
    if stores.redis.layout.cluster:
        return drain_shards(stores, request)
    for tries in range(1, DRAIN_TRIES + 1):
        if snapshot := _drain_once(stores, request):
            return snapshot
        log.debug(event("reading_discarded", mode=request.mode, tries=tries))
    raise MarkerMoved("Redis was emptied or fell back while its counters were read, again and again")


def _drain_once(stores: Stores, request: FlushRequest) -> Snapshot | None:
    """Drain; None if the snapshot must be discarded, because Redis was emptied or fell back meanwhile.

    The counters may then hold views that nothing of this run can be subtracted from: committed, they would count twice.
    """
    started = time.perf_counter()
    with stores.redis.on_one_connection() as redis:
        with stores.ledger.connect() as connection:
            stores.ledger.target(connection)  # before anything is written: the table may be unusable
            stores.ledger.require_standbys(connection)
            last, marker, notes = ensure_marker(redis, stores.ledger, connection, request.run_id)
            base = max(last.seq, marker.seq)
            marker, settled_before, settle_notes = settle_through(redis, stores.ledger, connection, marker, last.seq)
            notes += settle_notes + RunNotes(settled_before=settled_before)
            record_incidents(connection, notes, request.run_id)
        _, oldest = stores.redis.changed_set_size_and_oldest()
        server = redis.server_run_id() if request.mode == "sweep" else ""
        candidates = Candidates(stores.redis, server, request, marker)
        readings = redis.read(candidates)
        now = redis.wait_until_reads_durable(request.run_id, marker, notes.redis_emptied)
    if now is None or (now.epoch, now.ledger) != (marker.epoch, marker.ledger) or now[:2] < marker[:2]:
        return None
    progress = candidates.progress
    notes += RunNotes(sweep_restarted=progress.sweep_restarted)
    marker = marker._replace(hold=marker.hold or now.hold)
    if marker.hold and request.mode != "sweep":  # only a sweep reads all that may have been counted before
        stores.redis.request_sweep_unless_requested(SWEEP_REASON)
    taken_at, seconds = stores.redis.now(), time.perf_counter() - started
    return Snapshot(request, base, last.flush_id, marker, readings, taken_at, oldest, progress, notes, seconds)


def ensure_marker(
    redis: RedisStore, ledger: Ledger, connection: psycopg.Connection, run_id: str
) -> tuple[LastFlush, Marker, RunNotes]:
    """Return the newest flush, and the marker with the same timeline; it is created if there is none."""
    identity = ledger.identity(connection)
    last, emptied, seen_timeline = ledger.last_flush(connection), False, None
    while True:
        made, marker = redis.begin(run_id, last, identity, seen_timeline)
        require_undiverged_history(connection, marker, identity.place, last)
        emptied |= made and last.seq > 0
        if marker.timeline != last.timeline:  # PostgreSQL may have lost flushes: what was read may be older than that
            seen_timeline, last = marker.timeline, ledger.last_flush(connection)
            continue
        if marker.seq <= last.seq:
            return last, marker, RunNotes(redis_emptied=emptied)
        newest = ledger.last_flush(connection)
        if newest.seq <= last.seq:
            notes = RunNotes(redis_emptied=emptied, postgres_rolled_back=True)
            return last, marker._replace(missing_flushes=(last.seq, marker.seq)), notes
        last = newest  # another run committed in between: start again
