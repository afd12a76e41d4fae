"""Several streams: a world whose VODs are cut into parts, and flushes of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.each_stream import drain_each_stream, for_each_stream
from viewer_pipeline.flush.flush_request import Mode
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.stream_change import change_streams
from viewer_pipeline.layout import Layout, key_slot, slot_of_shard
from viewer_pipeline_tests.support.world import PREFIX, World

MAX_VODS = 100  # vod0000 and so on, in the tests of streams
_shards = sorted({key_slot(f"{PREFIX}vod{number:04d}".encode()) + 1 for number in range(MAX_VODS)})


def shards_of_vods(layout: Layout) -> list[int]:
    """Return the shards of a stream of a cluster in which tests have VODs: of 16384, only these get markers."""
    return [shard for shard in _shards if slot_of_shard(shard) in layout.stream.slots]


@pytest.fixture(name="world", params=["single Redis", "cluster"])
def world_of_each_kind(request: pytest.FixtureRequest) -> Iterator[World]:
    """Both kinds of Redis. Import it under this name where tests cut its VODs into streams."""
    if request.param == "cluster":
        with patch.object(Layout, "shards", property(shards_of_vods)):
            yield request.getfixturevalue("cluster_world")
    else:
        yield World(request.getfixturevalue("stores"))


def cut(world: World, parts: int) -> None:
    """Change the number of streams, and what the settings expect."""
    change_streams(world.stores, parts)
    world.stores = replace(world.stores, flush_streams=parts)
    world.stores.redis.parts = parts


def flush_all(world: World, mode: Mode = "sweep", **options: Any) -> list[RunReport]:
    """Flush all streams at once, as one run does."""

    def commit(work: tuple[Stores, Snapshot]) -> RunReport:
        stores, snapshot = work
        return bulk_upsert(stores, snapshot, aggregate(snapshot.readings))

    with world.stores.ledger.keeping_connections() as ledger:
        streams = replace(world.stores, ledger=ledger).of_each_stream()
        snapshots = drain_each_stream(streams, world.request(mode, **options))
        return for_each_stream(commit, list(zip(streams, snapshots, strict=True)))
