"""Retirement: discard a pipeline that is gone, with its keys in Redis."""

from __future__ import annotations

import psycopg

from viewer_pipeline.errors import CannotAdopt, RedisUnavailable
from viewer_pipeline.flush.adoption import ALIVE
from viewer_pipeline.flush.all_shards import settle_all_shards
from viewer_pipeline.flush.drain import ensure_marker
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_streams import read_open_streams
from viewer_pipeline.flush.marker_ownership import read_own_marker
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.settle import settle_through
from viewer_pipeline.stores.redis import Script, as_text

RETIRE = Script.load("flush/claim", "flush/retire")


def retire_pipeline(redis: RedisStore, prefix: str, *, settled_by: Ledger | None = None) -> bool:
    """Discard a pipeline that is gone, with its keys; return whether it was in the registry.

    The next pipeline would count the remaining counters, and some of them may be committed and unsettled. So there must
    be none; or `settled_by` is the ledger of that pipeline: it is settled first, and the rest is left to the next
    pipeline. Raises CannotAdopt, also while its worker is alive; PipelineRefused for another ledger.
    """
    store = redis.of_prefix(prefix)
    names = store.names
    store.require_all_nodes()
    if settled_by is not None:
        _settle(store, settled_by)
    elif left := next((ids for ids in store.scan_counters() if ids), None):
        key = f"{prefix}{as_text(left[0])}"
        raise CannotAdopt(
            f"counters of {prefix!r} are left, e.g. {key}; let that pipeline flush them, delete them, or leave them to"
            " another pipeline: `--keep-counters`, with DATABASE_URL of the pipeline that is gone"
        )
    outcome, *rest = store.run_script(RETIRE, [*names.registration_keys(), names.changed], [prefix])
    if outcome == ALIVE:
        raise CannotAdopt(f"the worker {as_text(rest[0])} of {prefix!r} is alive; stop it")
    store.delete_shard_markers()
    store.delete_stream_keys()
    return bool(outcome)


def _settle(store: RedisStore, ledger: Ledger) -> None:
    """Subtract from the counters what the ledger has committed."""
    with ledger.connect() as connection:
        for stream in read_open_streams(connection).all:
            _settle_stream(store.of_stream(stream), ledger.of_stream(stream), connection)


def _settle_stream(store: RedisStore, ledger: Ledger, connection: psycopg.Connection) -> None:
    marker = read_own_marker(store, ledger, connection)
    if marker is not None and store.layout.cluster:
        if obstacle := settle_all_shards(store, ledger, connection, "retire").obstacle:
            raise RedisUnavailable(obstacle)
    elif marker is not None:
        last, marker, _ = ensure_marker(store, ledger, connection, "retire")
        settle_through(store, ledger, connection, marker, last.seq)
    elif ledger.last_flush(connection).seq > ledger.stream.first:
        raise CannotAdopt(f"Redis has no marker for {store.prefix_text!r}, so what its flushes left is not known")
