"""A program of version 0.1.0 that runs after the upgrade is refused, and changes nothing that counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.ingest.subscriber_scripts import SubscriberScripts
from viewer_pipeline.redis_names import DEFAULT_PREFIX
from viewer_pipeline_tests.support.claims import claim, identity_of
from viewer_pipeline_tests.support.old_version import OLD, OldPrograms, insert_flush
from viewer_pipeline_tests.support.stored import loaded

LEASE_MS = 60_000
UPGRADED, FRESH, USED = "upgraded", "fresh", "used"  # fresh: known to Redis, and no more


@pytest.fixture(params=[DEFAULT_PREFIX, "shop:views:"])
def prefix(request: pytest.FixtureRequest) -> str:
    """The counter prefix of a pipeline."""
    return str(request.param)


@pytest.fixture(params=[UPGRADED, FRESH, USED])
def pipeline(request: pytest.FixtureRequest, prefix: str, stores: Stores, servers_home: Path) -> Iterator[Stores]:
    """A pipeline of this version, with pending views."""
    client, redis_url, database_url = stores.redis._client, stores.redis.url, stores.ledger.url
    if request.param == UPGRADED:
        pair = "half_settled-default" if prefix == DEFAULT_PREFIX else "half_settled-shop"
        with loaded(pair, database_url, servers_home) as stored:
            stored.migrate()
            yield stored.stores
        return
    stores = Stores(RedisStore(client, redis_url, prefix), stores.ledger)
    client.mset({prefix + "a": 3, prefix + "b": 5})
    client.zadd(stores.redis.names.changed, {"a": 1, "b": 2})
    RedisStore(client, redis_url, prefix).register_pipeline(identity_of(database_url))
    if request.param == USED:
        with stores.ledger.connect() as connection:
            stores.redis.begin("run", LastFlush(0, 0), stores.ledger.identity(connection))
        take_lease(stores)
    yield stores


@pytest.fixture
def old(pipeline: Stores) -> OldPrograms:
    """Programs of version 0.1.0 with the same settings."""
    return OldPrograms(pipeline.redis._client, pipeline.redis.prefix_text)


def take_lease(stores: Stores) -> SubscriberScripts:
    """Take the lease as a worker of this version."""
    folds = SubscriberScripts(stores.redis, increment=True)
    stored_term: Any = stores.redis._client.hget(stores.redis.names.subscriber, "term")
    request = claim(
        identity_of(stores.ledger.url),
        folds.read_or_create_key_space_id(),
        "new",
        term=int(stored_term or 0),
        complete_after=0,
    )
    assert folds.acquire_or_renew_lease(request, LEASE_MS, 0).outcome != "held_by_other"
    return folds


def key_space(stores: Stores) -> str:
    """Return the id that the old version reads or creates: it subscribes before it requests the lease."""
    stores.redis._client.hsetnx("viewer:subscriber", "id", "made by the old version")
    key_space_id: Any = stores.redis._client.hget("viewer:subscriber", "id")
    return bytes(key_space_id).decode()


def counters(stores: Stores) -> dict[bytes, Any]:
    """Return all keys with the counter prefix, with their values."""
    ids = [raw for ids in stores.redis.scan_counters() for raw in ids]
    return {raw: stores.redis._client.get(stores.redis.prefix + raw) for raw in ids}


def ours(stores: Stores) -> tuple[Any, ...]:
    """Return the state of this version: marker, changed set, lease."""
    names, client = stores.redis.names, stores.redis._client
    fields = "id", "folded", "segment", "part", "parts", "cut", "term", "holder", "expires", "ledger"
    lease = client.hmget(names.subscriber, *fields) if client.hexists(names.subscriber, "term") else None
    return stores.redis.marker(), client.zrange(names.changed, 0, -1, withscores=True), lease


@contextmanager
def nothing_changes(stores: Stores) -> Iterator[None]:
    """Assert that the block changes nothing that counts."""
    before = counters(stores), ours(stores)
    assert before[0]
    yield
    assert (counters(stores), ours(stores)) == before


def test_an_old_run_cannot_read_the_marker(pipeline: Stores, old: OldPrograms) -> None:
    """`begin` returns a sentence in place of a number, which its error shows."""
    with nothing_changes(pipeline):
        made, seq, *_ = old.begin("old", 0, 0, "old epoch")
        assert made == 0
        assert seq == OLD.encode()
        with pytest.raises(ValueError, match="invalid literal for int"):
            int(seq)


def test_an_old_worker_gets_no_lease(pipeline: Stores, old: OldPrograms) -> None:
    """The script fails whatever the worker sends, and it does not keep workers of this version from the lease."""
    space = key_space(pipeline)
    with nothing_changes(pipeline):
        for term in range(4):
            with pytest.raises(redis.ResponseError):
                old.lease("old", space, term)
        old.release("old", space)
    pipeline.redis._client.hset(pipeline.redis.names.subscriber, "expires", 0)
    take_lease(pipeline)
    with nothing_changes(pipeline), pytest.raises(redis.ResponseError):
        old.lease("old", space, 99)


@pytest.mark.parametrize("token", ["old", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"], ids=["new", "held the lease before"])
def test_an_old_frozen_worker_neither_cuts_nor_folds(pipeline: Stores, old: OldPrograms, token: str) -> None:
    """Not even with the token of a lease that it still takes for valid."""
    space = key_space(pipeline)
    with nothing_changes(pipeline):
        assert old.cut(token, space) == 0
        for segment in (1, 6, 7):
            assert old.fold(token, segment, {"a": 100, "vod0001": 100}) == -1


def test_an_old_frozen_run_subtracts_nothing(pipeline: Stores, old: OldPrograms) -> None:
    """It committed before the upgrade and settles after it: the next run of this version does that instead."""
    marker = pipeline.redis.marker()
    epochs = {"", "other", marker.epoch if marker else ""}
    views = {name.decode(): 1 for name in counters(pipeline) if name != b"broken"}
    with nothing_changes(pipeline):
        for epoch in epochs:
            for batch, before in (((6, 3, 5), (6, 2)), ((1, 1, 1), (0, 0)), ((6, 1, 5), (5, 3))):
                assert old.settle(batch, before, epoch, views) == -1


def test_an_old_flush_is_not_committed(pipeline: Stores) -> None:
    """The ledger has a required column that version 0.1.0 does not know."""
    ledger = pipeline.ledger
    with psycopg.connect(ledger.url) as connection:
        row = connection.execute("SELECT coalesce(max(seq), 0) FROM viewer.flush").fetchone()
        assert row is not None
        with pytest.raises(psycopg.errors.NotNullViolation, match='"format" of relation "flush"'):
            insert_flush(connection, row[0] + 1)


def test_an_old_frozen_run_removes_no_pending_vod_from_the_changed_set(pipeline: Stores, old: OldPrograms) -> None:
    """Pending VODs stay announced; a newer request for a sweep stays, too."""
    pipeline.redis.request_sweep("a reason")
    with nothing_changes(pipeline):
        assert old.remove_empty({name.decode(): 0 for name in counters(pipeline) if name != b"broken"}) == 0
        assert old.swept(b"1 an older request") == 0
    assert pipeline.redis.sweep_request() is not None
