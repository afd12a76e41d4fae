"""Giving the counters of a prefix to another database, and forgetting a pipeline that is gone."""

from __future__ import annotations

from typing import NamedTuple
from uuid import uuid4

import psycopg
import redis

from viewer_pipeline.counting.flush import Stores
from viewer_pipeline.counting.identity import LedgerIdentity
from viewer_pipeline.counting.ledger import LastFlush, last_flush, require_primary
from viewer_pipeline.counting.ownership import check_history
from viewer_pipeline.counting.redis_client import Script, redis_errors
from viewer_pipeline.counting.redis_store import Marker, RedisStore
from viewer_pipeline.counting.registry import known_pipelines, register
from viewer_pipeline.counting.statements import SQL
from viewer_pipeline.errors import CannotAdopt, MarkerMoved, PipelineRefused
from viewer_pipeline.redis_names import RedisNames

ADOPT, RETIRE = (Script.load("claim", name) for name in ("adopt", "retire"))


class Adoption(NamedTuple):
    """What `adopt` did. `before`: the ledger that Redis belonged to; None where it belonged to none."""

    prefix: str
    before: str | None
    ledger: str
    place: str
    changed: bool
    from_here: bool  # began at the end of this ledger; else goes on where Redis was settled to
    flush: int  # where the marker stands


def adopt(stores: Stores, *, from_here: bool) -> Adoption:
    """Give the counters of this prefix to this ledger, which another one has settled so far.

    It goes on where Redis was settled to, if this ledger contains the flush at which that is: then it was restored from
    the other one, and every view is counted once. Else CannotAdopt, unless `from_here`: then it begins at its own end,
    and what the other database has counted stays there alone. Raises CannotAdopt also while a worker of the other
    one is alive, PostgresUnavailable on a standby.
    """
    redis, prefix = stores.redis, stores.redis.prefix_text
    with stores.ledger.connect() as connection:
        require_primary(connection)
        identity, last = stores.ledger.identity(connection), last_flush(connection)
        marker = redis.marker()
        entries = {one.prefix: one for one in known_pipelines(redis.client, redis.url)}
        before = marker.ledger if marker else entries[prefix].ledger if prefix in entries else None
        if before == identity.key and not from_here:
            check_history(connection, marker, identity) if marker else None
            return Adoption(prefix, before, identity.key, identity.place, False, False, marker.seq if marker else 0)
        if before is None:
            register(redis.client, redis.url, prefix, identity)
            return Adoption(prefix, None, identity.key, identity.place, True, False, 0)
        if marker and not from_here:
            _require_same_history(connection, marker, identity, last)
    _adopt(redis, identity, last, marker, from_here=from_here)
    flush = last.seq if from_here or not marker else marker.seq
    return Adoption(prefix, before, identity.key, identity.place, True, from_here, flush)


def _adopt(
    redis: RedisStore, identity: LedgerIdentity, last: LastFlush, marker: Marker | None, *, from_here: bool
) -> None:
    names = redis.names
    at = (str(marker.seq), str(marker.batch), marker.epoch) if marker else ("", "", "")
    begin: list[str | int] = [int(from_here), last.seq, last.batches, str(last.flush_id or ""), uuid4().hex]
    keys = [names.marker, names.subscriber, *names.claimed_keys()]
    with redis_errors(redis.url):
        outcome, *rest = ADOPT.run(redis.client, keys, [redis.prefix_text, identity.key, identity.place, *at, *begin])
    if outcome < 0:
        who = rest[0].decode("utf-8", "backslashreplace")
        raise CannotAdopt(f"the worker {who} of the other database is alive; stop it, its daemon and its runs first")
    if outcome == 0:
        raise MarkerMoved("a run of the other database settled meanwhile; stop its daemon and its runs first")


def _require_same_history(
    connection: psycopg.Connection, marker: Marker, identity: LedgerIdentity, last: LastFlush
) -> None:
    """Raise CannotAdopt where this ledger is no copy of the one that has settled Redis, up to that flush at least."""
    if not marker.seq:
        return
    other = f"Redis was settled up to flush {marker.seq} ({marker.flush_id or 'of unknown id'})"
    hint = "`--from-here` begins at the end of this ledger; docs/how-to/clones.md says what that means"
    if marker.seq > last.seq:
        raise CannotAdopt(
            f"{other}, and this ledger ends at flush {last.seq}: the views of {marker.seq - last.seq} flushes are only"
            f" in the other database; {hint}"
        )
    try:
        check_history(connection, marker, identity)
    except PipelineRefused as error:
        raise CannotAdopt(f"{error}; {hint}") from None
    row = connection.execute(SQL["find_flush"], {"flush_id": marker.flush_id or None}).fetchone()
    if not row or not row[0]:
        raise CannotAdopt(f"{other}, which this ledger does not contain; {hint}")


def retire(client: redis.Redis, url: str, prefix: str) -> bool:
    """Forget a pipeline that is gone, with its keys; return whether it was known.

    Raises CannotAdopt while its worker is alive, or counters of it are left.
    """
    names, store = RedisNames.of(prefix), RedisStore(client, url, prefix)
    left = next((ids for ids in store.swept() if ids), None)
    if left:
        key = f"{prefix}{left[0].decode('utf-8', 'backslashreplace')}"
        raise CannotAdopt(f"counters of {prefix!r} are left, e.g. {key}; let that pipeline flush them, or delete them")
    with redis_errors(url):
        outcome, *rest = RETIRE.run(client, [*names.claimed_keys(), *_own(names)], [prefix])
    if outcome < 0:
        raise CannotAdopt(f"the worker {rest[0].decode('utf-8', 'backslashreplace')} of {prefix!r} is alive")
    return bool(outcome)


def _own(names: RedisNames) -> tuple[str, str, str]:
    return names.marker, names.changed, names.subscriber
