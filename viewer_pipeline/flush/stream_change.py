"""Changing the number of streams: all that was committed is settled first, then new streams take over (docs/adr/0027).

1. In the ledger, the active streams are closed to flushes, and new ones are planned.
2. What the old streams have committed is settled.
3. Markers of the new streams are made, by a script that sees that the old ones still stand where all is settled.
4. In the ledger, the new streams become active.

Each step can be repeated, so whatever interrupts the change, repeating it completes it. In between, no run commits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import psycopg

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import MarkerMoved, PipelineRefused, RedisUnavailable
from viewer_pipeline.flush.all_shards import ensure_shard_markers, settle_all_shards
from viewer_pipeline.flush.cluster_counters import require_values
from viewer_pipeline.flush.cluster_store import ClusterStore, as_cluster
from viewer_pipeline.flush.drain import ensure_marker
from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.ledger_identity import LedgerIdentity
from viewer_pipeline.flush.ledger_streams import (
    PlannedStream,
    activate,
    plan_change,
    read_open_streams,
    replan_change,
)
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.settle import settle_through
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.layout import slot_of_shard
from viewer_pipeline.logs import event
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.stores.cluster_nodes import ScriptCall
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.redis import Script, redis_errors
from viewer_pipeline.streams import Stream, format_seq

log = logging.getLogger("viewer_pipeline.streams")
SQL = named_queries(__name__)

OPEN_STREAMS = Script.load("flush/claim", "flush/open_streams")
RUN_ID = "streams"
TRIES = 3  # because a marker moved
OPENED, MOVED, IN_USE = 1, 0, -1  # outcomes of the script
SWEEP_REASON = "the VODs were cut into another number of streams"


class StreamChange(NamedTuple):
    """The streams before and after; the same if as many were active as were asked for."""

    before: Sequence[Stream]
    after: Sequence[Stream]


def change_streams(stores: Stores, parts: int) -> StreamChange:
    """Cut the VODs into `parts` parts with a stream each, once all flushes of the streams before are settled.

    Raises the errors of a drain, MarkerMoved, and RedisUnavailable where a node of a cluster does not answer: no run
    commits then until it is repeated. Raises PipelineRefused where another change was made meanwhile, and where the
    ledger has no numbers for as many streams; and, before anything is closed, where Redis lacks the marker of a stream
    that has flushes: it may be another Redis.
    """
    with stores.ledger.connect() as connection:
        _require_markers(connection, stores, parts)
        plan = plan_change(connection, parts)
        if not plan.planned:
            return StreamChange(plan.active, plan.active)
        before = [stores.of_stream(stream) for stream in plan.closing]
        moved = 0
        while (outcome := _open_markers(connection, stores, before, plan.planned)) != OPENED:
            if outcome == IN_USE:  # by a change that PostgreSQL has lost
                record_incidents(connection, RunNotes(postgres_rolled_back=True), RUN_ID)
                plan = replan_change(connection, plan.planned)
            elif (moved := moved + 1) == TRIES:
                raise MarkerMoved("the streams before were settled again and again; stop all runs, and repeat this")
        activate(connection, plan.planned)
    after = [planned.stream for planned in plan.planned]
    for stream in after:
        stores.of_stream(stream).redis.request_sweep(SWEEP_REASON)
    for old in before:
        if old.redis.names.changed not in {stores.of_stream(stream).redis.names.changed for stream in after}:
            old.redis.delete_changed_set()
    log.info(event("streams_changed", before=len(plan.closing), after=len(after)))
    return StreamChange(plan.closing, after)


def change_streams_of_new_ledger(stores: Stores) -> None:
    """Change the streams as the settings say, if no flush was ever committed: then nobody needs to stop anything."""
    with stores.ledger.connect() as connection:
        (is_new,) = fetch_one(connection, SQL["is_new"])
    if is_new:
        change_streams(stores, stores.flush_streams)


def _require_markers(connection: psycopg.Connection, stores: Stores, parts: int) -> None:
    """Raise PipelineRefused where a change would begin with a Redis that was emptied, or is not that of the pipeline.

    A change that has begun is completed all the same: no run could make the markers then.
    """
    active = read_open_streams(connection).active
    if len(active) == parts:
        return
    for stream in active:
        of_stream = stores.of_stream(stream)
        last = of_stream.ledger.last_flush(connection)
        if last.seq > stream.first and of_stream.redis.marker() is None:
            raise PipelineRefused(
                f"{of_stream.redis.names.marker} is missing, and flush {format_seq(last.seq)} was settled or is to be:"
                f" is {redact_text(of_stream.redis.url)} the right Redis? If it was emptied, run"
                f" `{command_to_type('flush')}` with the old FLUSH_STREAMS first: it holds what may have been counted"
            )


def _open_markers(
    connection: psycopg.Connection, stores: Stores, before: Sequence[Stores], planned: Sequence[PlannedStream]
) -> int:
    """Settle the streams before, then make the markers of the planned ones; return the outcome of the script."""
    if stores.redis.layout.cluster:
        return _open_markers_of_shards(connection, stores, before, planned)
    markers, identity = [], stores.ledger.identity(connection)
    with stores.redis.on_one_connection() as connected:
        for old in before:
            of_old = connected.of_stream(old.ledger.stream)
            last, marker, notes = ensure_marker(of_old, old.ledger, connection, RUN_ID)
            settled = settle_through(of_old, old.ledger, connection, marker, last.seq)
            record_incidents(connection, notes + settled.notes, RUN_ID)
            markers.append(settled.marker)
        keys = [old.redis.names.marker for old in before]
        keys += [connected.of_stream(new.stream).names.marker for new in planned]
        outcome: int = connected.run_script(OPEN_STREAMS, keys, _arguments(identity, markers, planned))
        if outcome == OPENED:
            first, ledger = planned[0], markers[0].ledger
            begin = Marker(first.stream.first, 0, 0, first.epoch, ledger=ledger)
            connected.of_stream(first.stream).wait_until_reads_durable(
                RUN_ID, begin
            )  # all were made over this connection
    return outcome


def _open_markers_of_shards(
    connection: psycopg.Connection, stores: Stores, before: Sequence[Stores], planned: Sequence[PlannedStream]
) -> int:
    """Do the same in a cluster, shard by shard. The markers of the home slot come last: by them a stream begins."""
    markers, homes = dict[int, tuple[str, Marker]](), list[Marker]()
    for old in before:
        settled = settle_all_shards(old.redis, old.ledger, connection, RUN_ID)
        if settled.obstacle:
            raise RedisUnavailable(settled.obstacle)
        of_stream = _markers_by_shard(as_cluster(old.redis))
        end = settled.last.seq, settled.last.batches
        if any(marker[:2] < end for _, marker in of_stream.values()):  # its node has fallen back since
            return MOVED
        markers |= of_stream
        homes.append(_required(old.redis.marker(), old.redis.names.marker))
    # The system may have been unknown when the pipeline was registered.
    identity = stores.ledger.identity(connection)._replace(system=homes[0].ledger.split("/")[1])
    for new in planned:
        cluster = as_cluster(stores.of_stream(new.stream).redis)
        calls = list[ScriptCall]()
        for shard in cluster.layout.shards:
            key, marker = markers[shard]
            arguments = _arguments(identity, [marker], [new])
            calls.append(ScriptCall(slot_of_shard(shard), [key, cluster.layout.marker_key(shard)], arguments))
        replies = cluster.nodes.run_script_following(OPEN_STREAMS, calls)
        with redis_errors(cluster.url):
            if refusals := [reply for reply in require_values(replies) if reply != OPENED]:
                return int(refusals[0])
    keys = [stores.of_stream(new.stream).redis.names.marker for new in planned]
    timeline = homes[0]._replace(timeline=stores.ledger.last_flush(connection).timeline)
    outcome: int = stores.redis.run_script(OPEN_STREAMS, keys, _arguments(identity, [timeline], planned, compare=False))
    for new in planned if outcome == OPENED else ():
        of_new = stores.of_stream(new.stream)
        ensure_shard_markers(of_new.redis, of_new.ledger, connection, RUN_ID)  # also waits until they are durable
    return outcome


def _markers_by_shard(cluster: ClusterStore) -> dict[int, tuple[str, Marker]]:
    """Return the marker of each shard of a stream, and its key."""
    keys = {shard: cluster.layout.marker_key(shard) for shard in cluster.layout.shards}
    return {shard: (keys[shard], _required(marker, keys[shard])) for shard, marker in cluster.shard_markers().items()}


def _required(marker: Marker | None, key: str) -> Marker:
    if marker is None:
        raise MarkerMoved(f"the marker {key} vanished")
    return marker


def _arguments(
    identity: LedgerIdentity, before: Sequence[Marker], planned: Sequence[PlannedStream], *, compare: bool = True
) -> list[str | int]:
    compared = [(marker.seq, marker.batch, marker.epoch) for marker in before] if compare else []
    begin = [(new.stream.first, new.epoch) for new in planned]
    arguments: list[str | int] = [before[0].ledger, identity.place, before[0].timeline, len(compared)]
    return arguments + [value for group in (*compared, *begin) for value in group]
