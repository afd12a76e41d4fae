"""A program of version 0.1.0 that is started after the upgrade is refused, and changes nothing that counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from viewer_pipeline.flush.ledger_rows import LastFlush
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.registry import register
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.ingest.fold_store import FoldStore
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
    register(client, redis_url, prefix, identity_of(database_url))
    if request.param == USED:
        with stores.ledger.connect() as connection:
            stores.redis.begin("run", LastFlush(0, 0), stores.ledger.identity(connection))
        take_lease(stores)
    yield stores


@pytest.fixture
def old(pipeline: Stores) -> OldPrograms:
    """Programs of version 0.1.0 with the same settings."""
    return OldPrograms(pipeline.redis._client, pipeline.redis.prefix_text)


def take_lease(stores: Stores) -> FoldStore:
    """Take the lease as a worker of this version."""
    folds = FoldStore(stores.redis._client, stores.redis.url, stores.redis.prefix_text, increment=True)
    stored_term: Any = stores.redis._client.hget(stores.redis.names.subscriber, "term")
    ask = claim(identity_of(stores.ledger.url), folds.key_space(), "new", term=int(stored_term or 0), complete_after=0)
    assert folds.acquire_or_renew(ask, LEASE_MS, 0).outcome != "held_by_other"
    return folds


def key_space(stores: Stores) -> str:
    """Return the id that the old version finds or makes: it subscribes before it asks for the lease."""
    stores.redis._client.hsetnx("viewer:subscriber", "id", "made by the old version")
    found: Any = stores.redis._client.hget("viewer:subscriber", "id")
    return bytes(found).decode()


def counters(stores: Stores) -> dict[bytes, Any]:
    """Return all that has the counter prefix, with its value."""
    ids = [raw for some in stores.redis.swept() for raw in some]
    return {raw: stores.redis._client.get(stores.redis.prefix + raw) for raw in ids}


def ours(stores: Stores) -> tuple[Any, ...]:
    """Return what this version reads: marker, changed set, lease."""
    names, client = stores.redis.names, stores.redis._client
    fields = "id", "folded", "segment", "part", "parts", "cut", "term", "holder", "expires", "ledger"
    lease = client.hmget(names.subscriber, *fields) if client.hexists(names.subscriber, "term") else None
    return stores.redis.marker(), client.zrange(names.changed, 0, -1, withscores=True), lease


@contextmanager
def nothing_changes(stores: Stores) -> Iterator[None]:
    """Hold what happens here to change nothing that counts."""
    before = counters(stores), ours(stores)
    assert before[0]
    yield
    assert (counters(stores), ours(stores)) == before


def test_a_run_finds_no_marker_that_it_can_read(pipeline: Stores, old: OldPrograms) -> None:
    """`begin` returns a sentence in place of a number, which its error shows."""
    with nothing_changes(pipeline):
        made, seq, *_ = old.begin("old", 0, 0, "old epoch")
        assert made == 0
        assert seq == OLD.encode()
        with pytest.raises(ValueError, match="invalid literal for int"):
            int(seq)


def test_a_worker_gets_no_lease(pipeline: Stores, old: OldPrograms) -> None:
    """The script fails, whatever the worker knows; and it keeps nobody of this version from the lease."""
    space = key_space(pipeline)
    with nothing_changes(pipeline):
        for turn in range(4):
            with pytest.raises(redis.ResponseError):
                old.lease("old", space, turn)
        old.release("old", space)
    pipeline.redis._client.hset(pipeline.redis.names.subscriber, "expires", 0)
    take_lease(pipeline)
    with nothing_changes(pipeline), pytest.raises(redis.ResponseError):
        old.lease("old", space, 99)


@pytest.mark.parametrize("token", ["old", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"], ids=["new", "held the lease before"])
def test_a_worker_that_was_frozen_neither_cuts_nor_folds(pipeline: Stores, old: OldPrograms, token: str) -> None:
    """Nor does one that believes that it holds the lease still."""
    space = key_space(pipeline)
    with nothing_changes(pipeline):
        assert old.cut(token, space) == 0
        for segment in (1, 6, 7):
            assert old.fold(token, segment, {"a": 100, "vod0001": 100}) == -1


def test_a_run_that_was_frozen_subtracts_nothing(pipeline: Stores, old: OldPrograms) -> None:
    """It committed before the upgrade, and settles after it: the next run of this version does that."""
    marker = pipeline.redis.marker()
    epochs = {"", "other", marker.epoch if marker else ""}
    views = {name.decode(): 1 for name in counters(pipeline) if name != b"broken"}
    with nothing_changes(pipeline):
        for epoch in epochs:
            for batch, before in (((6, 3, 5), (6, 2)), ((1, 1, 1), (0, 0)), ((6, 1, 5), (5, 3))):
                assert old.settle(batch, before, epoch, views) == -1


def test_a_flush_is_not_committed(pipeline: Stores) -> None:
    """The ledger has a column that must be given, and that version 0.1.0 does not know."""
    ledger = pipeline.ledger
    with psycopg.connect(ledger.url) as connection:
        found = connection.execute("SELECT coalesce(max(seq), 0) FROM viewer.flush").fetchone()
        assert found is not None
        with pytest.raises(psycopg.errors.NotNullViolation, match='"format" of relation "flush"'):
            insert_flush(connection, found[0] + 1)


def test_a_run_that_was_frozen_takes_no_pending_vod_out_of_the_changed_set(pipeline: Stores, old: OldPrograms) -> None:
    """What is pending stays announced; a request for a sweep stays unless it is the very one that was fulfilled."""
    pipeline.redis.request_sweep("a reason")
    with nothing_changes(pipeline):
        assert old.remove_empty({name.decode(): 0 for name in counters(pipeline) if name != b"broken"}) == 0
        assert old.swept(b"1 an older request") == 0
    assert pipeline.redis.sweep_request() is not None
