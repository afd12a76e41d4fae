"""Several streams: a world whose VODs are cut into parts, and flushes of all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.each_stream import drain_each_stream, for_each_stream
from viewer_pipeline.flush.flush_request import Mode
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.stream_change import change_streams
from viewer_pipeline_tests.support.world import World


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
