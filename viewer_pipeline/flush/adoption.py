"""Adoption: give the counters of a prefix to another database."""

from __future__ import annotations

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
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import is_same_ledger, require_undiverged_history
from viewer_pipeline.flush.pipeline_refusal import refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.shard_adoption import adopt_shards, read_shard_positions
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.redis import Script, as_text
from viewer_pipeline.text_formatting import pluralize

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
    from_here: bool  # continues from the end of this ledger; else from where Redis was settled
    flush: int  # of the marker


def adopt_pipeline(stores: Stores, mode: AdoptionMode = "continue") -> Adoption:
    """Give the counters of this prefix to this ledger, which another one has settled so far.

    `continue`: this ledger ends with the flush up to which Redis was settled, so every view is counted once.
    `settle-newer`: it also has later flushes, which were read from this Redis and are still to be subtracted.
    `from-here`: it continues from its own end, none of its flushes is subtracted, and what the other database has
    counted stays there alone. Raises CannotAdopt if the mode does not fit, or while a worker of the other database is
    alive; PostgresRefusesWrites on a standby.
    """
    redis, prefix = stores.redis, stores.redis.prefix_text
    with stores.ledger.connect() as connection:
        identity, last = stores.ledger.identity(connection), stores.ledger.last_flush(connection)
        marker = redis.marker()
        entries = {pipeline.prefix: pipeline.ledger for pipeline in redis.known_pipelines()}
        recorded = [ledger for ledger in (entries.get(prefix), redis.lease_ledger()) if ledger is not None]
        before = marker.ledger if marker else next(iter(recorded), None)
        if before is None:
            redis.register_pipeline(identity)
            return Adoption(prefix, None, identity.key, identity.place, True, False, last.seq)
        ours = is_same_ledger(before, identity.key)
        shards = read_shard_positions(as_cluster(redis), connection, identity, last) if redis.layout.cluster else None
        if shards:
            misfit, newer = shards.misfit, shards.newer_flushes
        else:
            misfit = _misfit(connection, marker, identity, last)
            newer = last.seq - marker.seq if marker and not misfit and not ours else 0
        position = shards.furthest if shards else marker
        _require_mode_fits(mode, misfit, newer, position)
        if ours and identity.system == UNKNOWN:
            identity = identity._replace(system=before.split("/")[1])  # a known one is kept
        consistent = prefix in entries and {before, *recorded} == {identity.key}  # else a run would be refused for ever
        consistent &= not shards or shards.ledgers <= {identity.key}
        if ours and mode != "from-here" and consistent:
            return Adoption(prefix, before, before, identity.place, False, False, position.seq if position else 0)
        _adopt(redis, identity, last, marker, from_here=mode == "from-here")
        if shards:
            adopt_shards(as_cluster(redis), shards, identity, last, from_here=mode == "from-here")
        if position and position.seq > last.seq:
            record_incidents(connection, RunNotes(postgres_rolled_back=True), "adopt")
    flush = last.seq if mode == "from-here" or not position else position.seq
    return Adoption(prefix, before, identity.key, identity.place, True, mode == "from-here", flush)


def _misfit(connection: psycopg.Connection, marker: Marker | None, identity: LedgerIdentity, last: LastFlush) -> str:
    """Return why this ledger does not contain the flush up to which Redis was settled; empty if it does."""
    if marker is None or not marker.seq:
        return ""
    settled = f"Redis was settled up to flush {marker.seq} ({marker.flush_id or 'of unknown id'})"
    if marker.seq > last.seq:
        lost = marker.seq - last.seq
        return f"{settled}, and this ledger ends at flush {last.seq}: it lacks the views of {pluralize(lost, 'flush')}"
    try:
        require_undiverged_history(connection, marker, identity.place)
    except PipelineRefused:
        return f"{settled}, and this ledger has other flushes: it is another copy, and both were written to"
    committed = read_commit_state(connection, marker.flush_id).committed
    return "" if committed else f"{settled}, which this ledger does not contain"


def _require_mode_fits(mode: AdoptionMode, misfit: str, newer: int, marker: Marker | None) -> None:
    if misfit and mode != "from-here":
        raise CannotAdopt(f"{misfit}; `--from-here` continues from the end of this ledger all the same; {PAGE}")
    if mode == "from-here" and not misfit and not newer:
        raise CannotAdopt("Redis was settled by this ledger; omit `--from-here`, or views count twice")
    if newer and mode == "continue":
        at = marker.seq if marker else 0
        raise CannotAdopt(
            f"this ledger has {pluralize(newer, 'flush')} after flush {at}, up to which Redis was settled; if they were"
            " read from this Redis (a run died before it settled them), add `--settle-newer`; if they were made"
            f" elsewhere, add `--from-here`; {PAGE}"
        )


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
