"""Adoption and retirement of a pipeline with several streams."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import patch

import psycopg
import pytest

from viewer_pipeline.errors import CannotAdopt, PipelineRefused
from viewer_pipeline.flush.adoption import adopt_pipeline
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.retirement import retire_pipeline
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.layout import Layout
from viewer_pipeline.streams import Stream
from viewer_pipeline_tests.support.servers import Postgres, copy_database
from viewer_pipeline_tests.support.streams import cut, flush_all, world_of_each_kind
from viewer_pipeline_tests.support.world import PREFIX, World

__all__ = ["world_of_each_kind"]

VODS = 30


@pytest.fixture
def copied(postgres_server: Postgres) -> Iterator[Callable[[World], World]]:
    """Copy the database of a world, as a restored dump has it: on the same Redis, with another identity."""
    name = "copy_" + os.urandom(6).hex()
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:

        def copy(world: World) -> World:
            original = world.stores.ledger.url.rpartition("/")[2]
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [original])
            copy_database(connection, name, original)
            other = type(world).__new__(type(world))
            other.__dict__.update(world.__dict__)
            other.stores = replace(world.stores, ledger=Ledger(postgres_server.url_of_database(name)))
            other.sent = Counter(world.sent)
            return other

        yield copy
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def flush_one(world: World, number: int, *, settled: bool = True) -> None:
    """Flush one stream."""
    stream = world.stores.of_each_stream()[number]
    with nullcontext() if settled else patch.object(Settler, "add", lambda *_: None):
        snapshot = drain(stream, world.request())
        bulk_upsert(stream, snapshot, aggregate(snapshot.readings))


def test_all_streams_are_adopted(world: World, copied: Callable[[World], World]) -> None:
    """One of them has flushes that were not settled: they are subtracted, once confirmed."""
    cut(world, 2)
    world.send_many(VODS)
    flush_all(world)
    world.send_many(VODS)
    flush_one(world, 1, settled=False)
    assert not adopt_pipeline(world.stores).changed
    copy = copied(world)
    with pytest.raises(PipelineRefused, match="adopt"):
        flush_all(copy)
    with pytest.raises(CannotAdopt, match=r"this ledger has \d flush(es)? after flush 2/\d, up to which Redis was"):
        adopt_pipeline(copy.stores)
    adoption = adopt_pipeline(copy.stores, "settle-newer")
    assert (adoption.changed, adoption.from_here) == (True, False)
    assert not adopt_pipeline(copy.stores).changed
    with pytest.raises(PipelineRefused):
        flush_all(world)
    copy.send_many(VODS, 1)
    flush_all(copy)
    copy.assert_all_persisted()
    assert copy.held() == Counter()


def test_one_stream_continues_and_one_begins_here(world: World, copied: Callable[[World], World]) -> None:
    """Only the first was flushed after the copy was made."""
    cut(world, 2)
    world.send_many(VODS)
    flush_all(world)
    copy = copied(world)
    world.send_many(VODS, 2)
    flush_one(world, 0)
    copy.sent = Counter(copy.totals()) + Counter(world.counters())
    with pytest.raises(CannotAdopt, match="`--from-here` continues from the end of this ledger"):
        adopt_pipeline(copy.stores)
    assert adopt_pipeline(copy.stores, "from-here").from_here
    with pytest.raises(CannotAdopt, match="omit `--from-here`"):
        adopt_pipeline(copy.stores, "from-here")
    assert not adopt_pipeline(copy.stores).changed
    assert [note for report in flush_all(copy) for note in report.notes.sentences()] == []
    copy.assert_all_persisted()
    assert copy.held() == Counter()


def test_a_ledger_from_before_the_streams(world: World, copied: Callable[[World], World]) -> None:
    """Its only stream ends where Redis was settled then, but streams have settled since that it does not know."""
    world.send_many(VODS)
    world.flush()
    copy = copied(world)
    cut(world, 2)
    world.send_many(VODS, 2)
    flush_all(world)
    world.send_many(VODS, 1)
    copy.stores = replace(copy.stores, flush_streams=1)
    copy.sent = Counter(copy.totals()) + Counter(world.counters())
    with pytest.raises(CannotAdopt, match="Redis was settled by 2 streams that this ledger does not have"):
        adopt_pipeline(copy.stores)
    assert adopt_pipeline(copy.stores, "from-here").changed
    assert copy.incidents().keys() == {"postgres_rolled_back"}
    assert not adopt_pipeline(copy.stores).changed
    copy.flush()
    copy.assert_all_persisted()
    cut(copy, 2)
    copy.send_many(VODS, 1)
    flush_all(copy)
    copy.assert_all_persisted()
    assert copy.held() == Counter()


def keys_of(world: World) -> set[str]:
    """Return the pipeline's own keys."""
    if world.stores.redis.layout.cluster:
        with world.stores.redis.node_clients() as nodes:
            keys = [key for node in nodes.values() for key in node.scan_iter(match="viewer:*", count=10_000)]
    else:
        keys = list(world.client.scan_iter(match="viewer:*"))
    return {key.decode() for key in keys}


def test_retirement_deletes_the_keys_of_all_streams(world: World) -> None:
    """Also of those that are closed; committed views are subtracted first. Keys of another pipeline stay."""
    cut(world, 2)
    cut(world, 3)
    world.send_many(VODS)
    flush_all(world)
    world.send_many(VODS)
    flush_one(world, 2, settled=False)
    world.send_many(VODS, 1)
    world.stores.redis.announce(["vod0001"])
    world.stores.redis.request_sweeps("test")
    other = Layout.of(world.stores.redis.url, "shop:", Stream(2, 0, 2)).names
    world.client.hset(other.marker, "flush", 1)
    world.client.zadd(other.changed, {"vod0001": 1})
    with pytest.raises(CannotAdopt, match="are left"):
        retire_pipeline(world.stores.redis, PREFIX)
    assert retire_pipeline(world.stores.redis, PREFIX, settled_by=world.stores.ledger)
    in_third = {vod_id for vod_id in world.sent if third(world, vod_id)}
    assert world.counters() == {vod_id: 1 if vod_id in in_third else 4 for vod_id in world.sent}
    names = world.stores.redis.names
    assert keys_of(world) <= {other.marker, other.changed, names.old_marker, names.old_subscriber}
    assert {other.marker, other.changed} <= keys_of(world)


def third(world: World, vod_id: str) -> bool:
    """Whether a VOD is in the third of three parts."""
    return world.stores.redis.layout.parts_of([vod_id.encode()], 3) == [2]
