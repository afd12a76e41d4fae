"""The upgrade of Redis from version 0.1.0: its keys move to the names and fields of this version. A stopped upgrade."""

from __future__ import annotations

import psycopg

from viewer_pipeline.errors import MarkerMoved, OldVersionRuns, PipelineRefused
from viewer_pipeline.flush.ledger_identity import NO_LEDGER, LedgerIdentity
from viewer_pipeline.flush.pipeline_refusal import refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.redis_names import OLD_CHANGED, OLD_MARKER, OLD_SUBSCRIBER, REGISTRY_KEY
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.redis import Script, as_text

SQL = named_queries(__name__)

ALIVE, MOVED, REFUSED = -1, -2, -3  # outcomes
UPGRADE = Script.load("flush/claim", "flush/upgrade")


def require_upgradable(stores: Stores) -> None:
    """Raise the error with which `upgrade_redis` would fail. Changes nothing.

    OldVersionRuns while a worker of version 0.1.0 holds its lease or stands by; PipelineRefused for a prefix that
    overlaps another one, or for the state of another pipeline; RedisFailed for a Redis user without rights on all keys.
    """
    seq = _old_seq(stores.redis)
    if seq is None:
        return
    with stores.ledger.connect() as connection:
        _require_any_flush(connection, seq, stores.ledger.place)
    _upgrade(stores.redis, NO_LEDGER, seq, "", move=False)


def upgrade_redis(stores: Stores) -> bool:
    """Move marker, changed set and half-folded segment in one script; return whether there was anything to move.

    They become those of the pipeline in the settings: version 0.1.0 did not record the pipeline. Raises as
    `require_upgradable` does, and MarkerMoved.
    """
    seq = _old_seq(stores.redis)
    if seq is None:
        return False
    with stores.ledger.connect() as connection:
        _require_any_flush(connection, seq, stores.ledger.place)
        identity = stores.ledger.identity(connection)
        row = connection.execute(SQL["flush_id_of"], {"seq": int(seq)}).fetchone() if seq.isdigit() else None
    return _upgrade(stores.redis, identity, seq, row[0] if row else "", move=True)


def _old_seq(redis: RedisStore) -> bytes | None:
    """Return the seq of the marker of version 0.1.0, empty if only its subscriber exists; None if neither does.

    Needs no rights beyond those of every program.
    """
    marker, subscriber = redis.read_hashes(
        (redis.names.old_marker, ("seq", "format")), (redis.names.old_subscriber, ("id", "format"))
    )
    (seq, marker_format), (key_space, subscriber_format) = marker, subscriber
    if seq is not None and marker_format is None:
        return bytes(seq)
    return b"" if key_space is not None and subscriber_format is None else None


def _require_any_flush(connection: psycopg.Connection, seq: bytes, place: str) -> None:
    """Raise PipelineRefused if Redis was settled by flushes, and this ledger never had one."""
    if seq.isdigit() and int(seq) and not fetch_one(connection, SQL["has_flushes"])[0]:
        raise PipelineRefused(
            f"Redis holds the state of version 0.1.0, settled up to flush {int(seq)}, and the ledger of {place} has no"
            " flush: it belongs to another pipeline, which must be migrated first; if it belongs to this one, and"
            f" PostgreSQL was lost, delete the key {OLD_MARKER}"
        )


def _upgrade(redis: RedisStore, ledger: LedgerIdentity, seq: bytes, flush_id: str, *, move: bool) -> bool:
    names = redis.names
    keys = [OLD_MARKER, OLD_CHANGED, OLD_SUBSCRIBER, names.marker, names.changed, names.subscriber, REGISTRY_KEY]
    key = ledger.key if ledger.ledger_id else ""
    arguments: list[str | bytes | int] = [names.prefix, key, ledger.place, seq, flush_id, int(move)]
    outcome, *rest = redis.run_script(UPGRADE, keys, arguments)
    if outcome == ALIVE:
        raise OldVersionRuns(f"worker {as_text(rest[0])}; stop it, wait 10 s, and migrate again")
    if outcome == MOVED:
        raise MarkerMoved("a run of version 0.1.0 settled meanwhile; stop it, and migrate again")
    if outcome == REFUSED:
        raise refusal(names.prefix, ledger, *rest)
    return bool(outcome)
