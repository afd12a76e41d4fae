"""Adoption: give the counters of a prefix to another database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import uuid4

import psycopg

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import CannotAdopt, MarkerMoved, PipelineRefused
from viewer_pipeline.flush.cluster_store import as_cluster
from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.ledger_identity import UNKNOWN, LedgerIdentity
from viewer_pipeline.flush.ledger_reads import read_commit_state
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.ledger_streams import read_open_streams
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import is_same_ledger, require_undiverged_history
from viewer_pipeline.flush.pipeline_refusal import refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.shard_adoption import ShardPositions, adopt_shards, read_shard_positions
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.redis import Script, as_text
from viewer_pipeline.streams import MAX_PARTS, MAX_STREAM, WHOLE, Stream, format_seq
from viewer_pipeline.text_formatting import pluralize

SQL = named_queries(__name__)

ADOPT = Script.load("flush/claim", "flush/adopt")
ALIVE, REFUSED = -1, -2

AdoptionMode = Literal["continue", "settle-newer", "from-here"]
PAGE = f"`{command_to_type('docs clones')}` explains each"


class Adoption(NamedTuple):
    """The result of `adopt`. `before`: the ledger that Redis belonged to; None if it belonged to none."""

    prefix: str
    before: str | None
    ledger: str
    place: str
    changed: bool
    from_here: bool  # a stream continues from the end of this ledger; else all from where Redis was settled
    flush: int  # of the marker; of several streams, that of the last one


@dataclass(frozen=True)
class StreamPosition:
    """A stream of the ledger that adopts, and how far Redis was settled in it.

    `misfit`: why this ledger does not contain what Redis was settled by; empty if it does. `newer`: how many flushes it
    has beyond that, if another ledger has settled it.
    """

    stores: Stores
    last: LastFlush
    marker: Marker | None  # in a cluster, that of the home slot
    shards: ShardPositions | None
    misfit: str
    newer: int

    @property
    def furthest(self) -> Marker | None:
        """The marker that is furthest."""
        return self.shards.furthest if self.shards else self.marker

    @property
    def ledgers(self) -> set[str]:
        """The ledgers that its markers belong to."""
        of_shards = self.shards.ledgers if self.shards else set[str]()
        return of_shards | {self.marker.ledger} if self.marker else of_shards

    def ends_here(self, mode: AdoptionMode) -> bool:
        """Whether it continues from the end of this ledger, wherever Redis was settled to."""
        return mode == "from-here" and bool(self.misfit or self.newer)

    def flush(self, mode: AdoptionMode) -> int:
        """Return the flush of its marker once it is adopted."""
        return self.last.seq if self.ends_here(mode) or not self.furthest else self.furthest.seq


def adopt_pipeline(stores: Stores, mode: AdoptionMode = "continue") -> Adoption:
    """Give the counters of this prefix to this ledger, which another one has settled so far.

    `continue`: this ledger ends with the flush up to which Redis was settled, so every view is counted once.
    `settle-newer`: it also has later flushes, which were read from this Redis and are still to be subtracted.
    `from-here`: it continues from its own end, none of its flushes is subtracted, and what the other database has
    counted stays there alone. Of several streams, `from-here` is for those that do not `continue`. Raises CannotAdopt
    if the mode does not fit, or while a worker of the other database is alive; PostgresRefusesWrites on a standby.
    """
    redis, prefix = stores.redis, stores.redis.prefix_text
    with stores.ledger.connect() as connection:
        identity, streams = stores.ledger.identity(connection), read_open_streams(connection).all
        positions = [_read_position(stores.of_stream(stream), connection, identity) for stream in streams]
        entries = {pipeline.prefix: pipeline.ledger for pipeline in redis.known_pipelines()}
        recorded = [ledger for ledger in (entries.get(prefix), redis.lease_ledger()) if ledger is not None]
        of_markers = [position.marker.ledger for position in positions if position.marker]
        if not of_markers and not recorded:
            redis.register_pipeline(identity)
            return Adoption(prefix, None, identity.key, identity.place, True, False, positions[-1].last.seq)
        lost = find_lost_streams(redis, connection)
        _require_mode_fits(mode, positions, lost)
        foreign = [ledger for ledger in of_markers if not is_same_ledger(ledger, identity.key)]
        before = [*foreign, *of_markers, *recorded][0]
        ours = is_same_ledger(before, identity.key)
        if ours and identity.system == UNKNOWN:
            identity = identity._replace(system=before.split("/")[1])  # a known one is kept
        positions += _read_first_stream(stores, streams)
        ledgers = {before, *recorded}.union(*(position.ledgers for position in positions))
        consistent = prefix in entries and ledgers == {identity.key}  # else a run would be refused for ever
        flush = max(position.flush(mode) for position in positions)
        if ours and mode != "from-here" and consistent:
            return Adoption(prefix, before, before, identity.place, False, False, flush)
        for position in positions:
            _adopt_stream(position, identity, from_here=position.ends_here(mode))
        if lost or any(position.furthest and position.furthest.seq > position.last.seq for position in positions):
            record_incidents(connection, RunNotes(postgres_rolled_back=True), "adopt")
        for stream in lost:
            redis.of_stream(stream).delete_marker()
    return Adoption(prefix, before, identity.key, identity.place, True, mode == "from-here", flush)


def _read_position(stores: Stores, connection: psycopg.Connection, identity: LedgerIdentity) -> StreamPosition:
    redis, last = stores.redis, stores.ledger.last_flush(connection)
    marker = redis.marker()
    if redis.layout.cluster:
        shards = read_shard_positions(as_cluster(redis), connection, identity, last)
        return StreamPosition(stores, last, marker, shards, shards.misfit, shards.newer_flushes)
    misfit = _misfit(connection, marker, identity, last, stores.ledger.stream)
    is_foreign = marker and not misfit and not is_same_ledger(marker.ledger, identity.key)
    return StreamPosition(stores, last, marker, None, misfit, last.seq - marker.seq if marker and is_foreign else 0)


def _read_first_stream(stores: Stores, streams: Sequence[Stream]) -> list[StreamPosition]:
    """Return the first stream although it is closed: the worker writes to its markers in a cluster."""
    if WHOLE in streams or (marker := stores.redis.marker()) is None:
        return []
    last = LastFlush(marker.seq, marker.batch)
    if not stores.redis.layout.cluster:
        return [StreamPosition(stores, last, marker, None, "", 0)]
    shards = as_cluster(stores.redis).shard_markers()
    positions = ShardPositions({shard: at for shard, at in shards.items() if at is not None}, set(), set(), 0)
    return [StreamPosition(stores, last, marker, positions, "", 0)]


def find_lost_streams(redis: RedisStore, connection: psycopg.Connection) -> list[Stream]:
    """Return the streams that have settled Redis, and are newer than all that this ledger has."""
    (newest,) = fetch_one(connection, SQL["newest_stream"])
    streams = [Stream(number) for number in range(newest + 1, min(newest + MAX_PARTS, MAX_STREAM) + 1)]
    hashes = redis.read_hashes(*((redis.of_stream(stream).names.marker, ("flush",)) for stream in streams))
    return [stream for stream, (flush,) in zip(streams, hashes, strict=True) if flush is not None]


def _misfit(
    connection: psycopg.Connection, marker: Marker | None, identity: LedgerIdentity, last: LastFlush, stream: Stream
) -> str:
    """Return why this ledger does not contain the flush up to which Redis was settled; empty if it does."""
    if marker is None or marker.seq == stream.first:
        return ""
    settled = f"Redis was settled up to flush {format_seq(marker.seq)} ({marker.flush_id or 'of unknown id'})"
    if marker.seq > last.seq:
        lost = marker.seq - last.seq
        end = format_seq(last.seq)
        return f"{settled}, and this ledger ends at flush {end}: it lacks the views of {pluralize(lost, 'flush')}"
    try:
        require_undiverged_history(connection, marker, identity.place)
    except PipelineRefused:
        return f"{settled}, and this ledger has other flushes: it is another copy, and both were written to"
    committed = read_commit_state(connection, marker.flush_id).committed
    return "" if committed else f"{settled}, which this ledger does not contain"


def _require_mode_fits(mode: AdoptionMode, positions: Sequence[StreamPosition], lost: Sequence[Stream]) -> None:
    misfits = [position.misfit for position in positions if position.misfit]
    if lost:
        misfits.append(f"Redis was settled by {pluralize(len(lost), 'stream')} that this ledger does not have")
    newer = [position for position in positions if position.newer]
    if misfits and mode != "from-here":
        raise CannotAdopt(f"{misfits[0]}; `--from-here` continues from the end of this ledger all the same; {PAGE}")
    if mode == "from-here" and not misfits and not newer:
        raise CannotAdopt("Redis was settled by this ledger; omit `--from-here`, or views count twice")
    if newer and mode == "continue":
        flushes, marker = sum(position.newer for position in newer), newer[0].furthest
        at = format_seq(marker.seq if marker else 0)
        raise CannotAdopt(
            f"this ledger has {pluralize(flushes, 'flush')} after flush {at}, up to which Redis was settled; if they"
            " were read from this Redis (a run died before it settled them), add `--settle-newer`; if they were made"
            f" elsewhere, add `--from-here`; {PAGE}"
        )


def _adopt_stream(position: StreamPosition, identity: LedgerIdentity, *, from_here: bool) -> None:
    redis, last = position.stores.redis, position.last
    _adopt(redis, identity, last, position.marker, from_here=from_here)
    if position.shards:
        adopt_shards(as_cluster(redis), position.shards, identity, last, from_here=from_here)


def _adopt(
    redis: RedisStore, identity: LedgerIdentity, last: LastFlush, marker: Marker | None, *, from_here: bool
) -> None:
    names = redis.names
    at = (str(marker.seq), str(marker.batch), marker.epoch) if marker else ("", "", "")
    marker_ledger = marker.ledger if marker else ""
    begin: list[str | int] = [int(from_here), last.seq, last.batches, str(last.flush_id or ""), uuid4().hex]
    keys = [names.marker, names.subscriber, *names.registration_keys()]
    arguments = [redis.prefix_text, identity.key, identity.place, *at, *begin, marker_ledger]
    outcome, *rest = redis.run_script(ADOPT, keys, arguments)
    if outcome == REFUSED:
        raise refusal(redis.prefix_text, identity, *rest)
    if outcome == ALIVE:
        raise CannotAdopt(
            f"the worker {as_text(rest[0])} of the other database is alive; stop it, its daemon and its runs first"
        )
    if outcome == 0:
        raise MarkerMoved("a run of the other database settled meanwhile; stop its daemon and its runs first")
