"""Giving the counters of a prefix to another database, and forgetting a pipeline that is gone."""

from __future__ import annotations

from typing import Literal, NamedTuple
from uuid import uuid4

import psycopg
import redis

from viewer_pipeline.errors import CannotAdopt, MarkerMoved, PipelineRefused
from viewer_pipeline.flush.findings import Findings
from viewer_pipeline.flush.identity import UNKNOWN, LedgerIdentity
from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.ledger import LastFlush, Ledger, find_flush, last_flush
from viewer_pipeline.flush.ownership import check_history, own_marker, same_ledger
from viewer_pipeline.flush.pipeline_refusal import refusal
from viewer_pipeline.flush.redis_store import Marker, RedisStore
from viewer_pipeline.flush.settle import settle_through
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.redis_names import RedisNames
from viewer_pipeline.stores.redis import Script, as_text, redis_errors

ADOPT, RETIRE = (Script.load("flush/claim", name) for name in ("flush/adopt", "flush/retire"))
ALIVE, REFUSED = -1, -2

How = Literal["continue", "settle-newer", "from-here"]
PAGE = "docs/how-to/clones.md says what each means"


class Adoption(NamedTuple):
    """What `adopt` did. `before`: the ledger that Redis belonged to; None where it belonged to none."""

    prefix: str
    before: str | None
    ledger: str
    place: str
    changed: bool
    from_here: bool  # began at the end of this ledger; else goes on where Redis was settled to
    flush: int  # where the marker stands


def adopt(stores: Stores, how: How = "continue") -> Adoption:
    """Give the counters of this prefix to this ledger, which another one has settled so far.

    `continue`: this ledger ends with the flush up to which Redis was settled, so every view is counted once.
    `settle-newer`: it has flushes after that one as well, which were read from this Redis and are still to be
    subtracted. `from-here`: it begins at its own end, nothing that it has is subtracted, and what the other database
    has counted stays there alone. Raises CannotAdopt where that does not fit, or a worker of the other one is alive;
    PostgresRefusesWrites on a standby.
    """
    redis, prefix = stores.redis, stores.redis.prefix_text
    with stores.ledger.connect() as connection:
        identity, last = stores.ledger.identity(connection), last_flush(connection)
        marker = redis.marker()
        entries = {one.prefix: one.ledger for one in redis.known_pipelines()}
        said = [ledger for ledger in (entries.get(prefix), redis.lease_ledger()) if ledger is not None]
        before = marker.ledger if marker else next(iter(said), None)
        if before is None:
            redis.register(identity)
            return Adoption(prefix, None, identity.key, identity.place, True, False, last.seq)
        misfit = _misfit(connection, marker, identity, last)
        ours = same_ledger(before, identity.key)
        newer = last.seq - marker.seq if marker and not misfit and not ours else 0
        _require_that_it_fits(how, misfit, newer, marker)
        if ours and identity.system == UNKNOWN:
            identity = identity._replace(system=before.split("/")[1])  # what is known by now stays so
        settled = prefix in entries and {before, *said} == {identity.key}  # else what differs would refuse it for ever
        if ours and how != "from-here" and settled:
            return Adoption(prefix, before, before, identity.place, False, False, marker.seq if marker else 0)
        _adopt(redis, identity, last, marker, from_here=how == "from-here")
        if marker and marker.seq > last.seq:
            record_incidents(connection, Findings(postgres_was_rolled_back=True), "adopt")
    flush = last.seq if how == "from-here" or not marker else marker.seq
    return Adoption(prefix, before, identity.key, identity.place, True, how == "from-here", flush)


def _misfit(connection: psycopg.Connection, marker: Marker | None, identity: LedgerIdentity, last: LastFlush) -> str:
    """Say why this ledger does not contain the flush up to which Redis was settled; empty where it does."""
    if marker is None or not marker.seq:
        return ""
    settled = f"Redis was settled up to flush {marker.seq} ({marker.flush_id or 'of unknown id'})"
    if marker.seq > last.seq:
        lost = marker.seq - last.seq
        return f"{settled}, and this ledger ends at flush {last.seq}: the views of {lost} flushes are not in it"
    try:
        check_history(connection, marker, identity.place)
    except PipelineRefused:
        return f"{settled}, and this ledger has other flushes: it is another copy, and both went on"
    committed, _standby, _read_only = find_flush(connection, marker.flush_id)
    return "" if committed else f"{settled}, which this ledger does not contain"


def _require_that_it_fits(how: How, misfit: str, newer: int, marker: Marker | None) -> None:
    if misfit and how != "from-here":
        raise CannotAdopt(f"{misfit}; `--from-here` begins at the end of this ledger all the same; {PAGE}")
    if how == "from-here" and not misfit and not newer:
        raise CannotAdopt("this ledger fits what Redis was settled by; leave `--from-here` away, or views count twice")
    if newer and how == "continue":
        at = marker.seq if marker else 0
        raise CannotAdopt(
            f"this ledger has {newer} flushes after flush {at}, up to which Redis was settled; if they were read from"
            " this Redis (a run died before it settled them), add `--settle-newer`; if they were made elsewhere, add"
            f" `--from-here`; {PAGE}"
        )


def _adopt(
    redis: RedisStore, identity: LedgerIdentity, last: LastFlush, marker: Marker | None, *, from_here: bool
) -> None:
    names = redis.names
    at = (str(marker.seq), str(marker.batch), marker.epoch) if marker else ("", "", "")
    marker_ledger = marker.ledger if marker else ""
    begin: list[str | int] = [int(from_here), last.seq, last.batches, str(last.flush_id or ""), uuid4().hex]
    keys = [names.marker, names.subscriber, *names.claimed_keys()]
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


def retire(client: redis.Redis, url: str, prefix: str, *, settled_by: Ledger | None = None) -> bool:
    """Forget a pipeline that is gone, with its keys; return whether it was known.

    Counters that are left would be counted by whoever comes next. Some of them may be committed and not settled yet.
    So there must be none; or `settled_by` is the ledger of that pipeline: then it is settled first, and the rest is
    left to the next one. Raises CannotAdopt, also while its worker is alive; PipelineRefused for another ledger.
    """
    names, store = RedisNames.of(prefix), RedisStore(client, url, prefix)
    if settled_by is not None:
        _settle(store, settled_by)
    elif left := next((ids for ids in store.swept() if ids), None):
        key = f"{prefix}{as_text(left[0])}"
        raise CannotAdopt(
            f"counters of {prefix!r} are left, e.g. {key}; let that pipeline flush them, delete them, or leave them to"
            " another pipeline: `--keep-counters`, with DATABASE_URL of the pipeline that is gone"
        )
    with redis_errors(url):
        outcome, *rest = RETIRE.run(client, [*names.claimed_keys(), names.changed], [prefix])
    if outcome == ALIVE:
        raise CannotAdopt(f"the worker {as_text(rest[0])} of {prefix!r} is alive; stop it")
    return bool(outcome)


def _settle(store: RedisStore, ledger: Ledger) -> None:
    """Subtract from the counters what the ledger has committed."""
    with ledger.connect() as connection:
        marker, last = own_marker(store, ledger, connection), last_flush(connection)
        if marker is not None:
            settle_through(store, connection, marker, last.seq, Findings())
        elif last.seq:
            raise CannotAdopt(f"Redis has no marker for {store.prefix_text!r}, so what its flushes left is not known")
