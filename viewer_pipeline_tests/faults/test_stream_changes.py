"""One set of streams follows another, whatever happens meanwhile: runs, other changes, lost data of both servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
import redis

from viewer_pipeline.errors import PipelineRefused
from viewer_pipeline.flush import stream_change, transaction
from viewer_pipeline.flush.aggregate import Aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger_row_types import Batch
from viewer_pipeline.flush.ledger_streams import PlannedStream, activate, active_streams, plan_change
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.stream_change import change_streams
from viewer_pipeline.streams import MAX_STREAM, NUMBERS
from viewer_pipeline_tests.faults.test_streams import VODS
from viewer_pipeline_tests.support.cluster_world import ClusterWorld
from viewer_pipeline_tests.support.streams import cut, flush_all, world_of_each_kind
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

__all__ = ["world_of_each_kind"]


def test_given_ids_are_flushed_by_their_own_streams(world: World) -> None:
    """Each VOD by one of them, although all are given the same ids."""
    cut(world, 3)
    world.send_many(VODS)
    reports = flush_all(world, "ids", vod_ids=tuple(world.sent))
    assert sum(report.counters for report in reports) == VODS
    world.assert_all_persisted()


def flush_and_die(stores: Stores, snapshot: Snapshot, aggregated: Aggregate) -> RunReport:
    """Commit what was read, as a run that dies before it settles anything."""
    with patch.object(Settler, "add", lambda *_: None):
        return bulk_upsert(stores, snapshot, aggregated)


def test_a_run_that_commits_during_the_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing commits any more once the streams before are settled: nobody would settle it."""
    world.send_many(VODS)
    stores, run, reports = world.stores, world.drain(flush_max_counters=VODS), list[RunReport]()

    def run_first(connection: psycopg.Connection, planned: Sequence[PlannedStream]) -> None:
        reports.append(flush_and_die(stores, *run))
        activate(connection, planned)

    monkeypatch.setattr(stream_change, "activate", run_first)
    cut(world, 2)
    assert [(report.left_over, report.counters) for report in reports] == [(True, 0)]
    flush_all(world)
    world.assert_all_persisted()


def test_concurrent_changes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one was interrupted before it made its markers: the first does not activate its streams."""
    world.send_many(VODS)
    world.flush()

    def plan_other_first(connection: psycopg.Connection, planned: Sequence[PlannedStream]) -> None:
        plan_change(connection, 3)
        activate(connection, planned)

    monkeypatch.setattr(stream_change, "activate", plan_other_first)
    with pytest.raises(PipelineRefused, match=r"changed twice at once; repeat .*streams apply"):
        cut(world, 2)
    monkeypatch.undo()
    cut(world, 3)
    world.send_many(VODS)
    flush_all(world)
    world.assert_all_persisted()
    assert world.held() == Counter()


def test_numbers_of_streams_are_used_up(stores: Stores) -> None:
    """Nothing is changed then: scripts would compare greater numbers of flushes wrongly."""
    world = World(stores)
    world.execute("INSERT INTO viewer.stream VALUES (%s, 0, 1, 'closed')", MAX_STREAM - 2)
    with pytest.raises(
        PipelineRefused, match=f"stream {MAX_STREAM + 1} would be above {MAX_STREAM}, the last one that can be"
    ):
        cut(world, 3)
    cut(world, 2)
    world.send_many(VODS)
    flush_all(world)
    assert max(world.seqs()) > MAX_STREAM * NUMBERS
    world.assert_all_persisted()
    world.send_many(VODS)
    flush_all(world)
    world.assert_all_persisted()


WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_a_change_waits_for_a_transaction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has claimed its number commits before its stream is closed, so the change settles it."""
    world.send_many(VODS)
    stores, run = world.stores, world.drain(flush_max_counters=VODS)
    copy_batches = transaction.copy_batches
    with ThreadPoolExecutor(1) as pool:

        def change_first(connection: psycopg.Connection, batches: Sequence[Batch]) -> None:
            change = pool.submit(change_streams, stores, 2)
            wait_until(lambda: change.done() or world.rows(WAITING), 60, "the change to wait, or to end")
            copy_batches(connection, batches)

        monkeypatch.setattr(transaction, "copy_batches", change_first)
        report = flush_and_die(stores, *run)
    assert (report.left_over, report.counters) == (False, VODS)
    world.stores = replace(stores, flush_streams=2)
    flush_all(world)
    world.assert_all_persisted()


def copy_of(world: World) -> list[dict[bytes, Any]]:
    """Return all keys of each server that has counters."""
    copies = []
    for client in servers(world):
        keys = list(client.scan_iter(count=1000))
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.dump(key)
            copies.append(dict(zip(keys, pipe.execute(), strict=True)))
    return copies


def fall_back(world: World, copies: list[dict[bytes, Any]]) -> None:
    """Let all servers fall back to these copies."""
    for client, copy in zip(servers(world), copies, strict=True):
        with client.pipeline(transaction=False) as pipe:
            pipe.flushall()
            for key, value in copy.items():
                pipe.restore(key, 0, value)
            pipe.execute()


def servers(world: World) -> list[redis.Redis]:
    """Return a client of each server that has counters."""
    return [node.client for node in world.cluster.primaries()] if isinstance(world, ClusterWorld) else [world.client]


@pytest.mark.parametrize("moment", ["settled", "markers are made"])
def test_redis_falls_back_during_the_change(world: World, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """After the streams before are settled, and before the next ones begin: they are settled again."""
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS, views=1)
    world.flush_unsettled()
    copies = copy_of(world)
    settles = "settle_all_shards" if world.stores.redis.layout.cluster else "settle_through"
    name = settles if moment == "settled" else "_arguments"
    original = getattr(stream_change, name)

    def and_fall_back(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        result = original(*arguments, **options)
        fall_back(world, copies)
        return result

    monkeypatch.setattr(stream_change, name, and_fall_back)
    cut(world, 2)
    flush_all(world)
    world.assert_all_persisted()
    assert world.held() == Counter()


def test_redis_falls_back_to_a_time_before_the_change(world: World) -> None:
    """Its counters have views that streams before have counted, and no marker of today's: they are held."""
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS, views=1)
    copies = copy_of(world)
    world.flush()
    cut(world, 2)
    flush_all(world)
    fall_back(world, copies)
    flush_all(world)
    assert world.totals() == dict(world.sent)
    assert world.held() == dict.fromkeys(world.sent, 1)


def test_a_change_begins_with_the_redis_of_the_pipeline(world: World) -> None:
    """One without the markers is refused before anything is closed: then views that were counted would be held."""
    world.send_many(VODS)
    world.flush_unsettled()
    for server in servers(world):
        server.flushall()
    with pytest.raises(PipelineRefused, match=r"viewer:settled\S* is missing, .*the right Redis\?"):
        change_streams(world.stores, 2)
    with world.stores.ledger.connect() as connection:
        assert len(active_streams(connection, 1)) == 1
    flush_all(world)  # as the error says
    cut(world, 2)


def test_streams_hold_what_those_before_would_have_held(world: World) -> None:
    """Redis lost its markers: its counters may have views that were counted, until each stream has swept."""
    world.send_many(VODS)
    copies = copy_of(world)
    world.flush()
    fall_back(world, copies)
    world.drain()  # makes the markers, and commits nothing
    cut(world, 2)
    flush_all(world)
    assert world.counters() == {}
    assert world.totals() == dict(world.sent)
    assert world.held() == world.sent
    flush_all(world)
    world.send_many(VODS, views=1)
    flush_all(world)
    assert world.totals() == dict(world.sent)


def test_one_of_the_streams_before_held_views(world: World) -> None:
    """Its counters are read by all that follow."""
    cut(world, 2)
    world.send_many(VODS)
    flush_all(world)
    first, _ = world.stores.of_each_stream()
    raws = [vod_id.encode() for vod_id in world.sent]
    counted = {raw.decode(): 3 for raw in first.redis.layout.owned(raws)}
    for vod_id, views in counted.items():
        world.client.incrby(PREFIX + vod_id, views)
    first.redis.delete_shard_markers()
    world.client.delete(first.redis.names.marker)
    drain(first, world.request())  # makes the markers, and commits nothing
    cut(world, 3)
    flush_all(world)
    assert world.totals() == dict(world.sent)
    assert world.held() == counted


class Ledger:
    """The ledger as it is now, to be restored later."""

    def __init__(self, world: World) -> None:
        self._world, self._sent = world, world.sent.copy()
        self._tables = [name for (name,) in world.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'viewer'")]
        world.execute("CREATE SCHEMA saved")
        for table in self._tables:
            world.execute(f"CREATE TABLE saved.{table} AS TABLE viewer.{table}")

    def restore(self) -> None:
        """Roll PostgreSQL back: it has lost what was committed since, and Redis no longer has it."""
        for table in self._tables:
            self._world.execute(f"DELETE FROM viewer.{table}")
            self._world.execute(f"INSERT INTO viewer.{table} TABLE saved.{table}")
        self._world.sent = self._sent


def test_postgres_loses_changes(world: World) -> None:
    """Redis has markers of the streams that were lost. None of them is used again, however many there were."""
    world.send_many(VODS)
    world.flush()
    saved = Ledger(world)
    for parts in (2, 3):
        cut(world, parts)
        world.send_many(VODS, views=1)
        flush_all(world)
    saved.restore()
    world.stores = replace(world.stores, flush_streams=1)
    world.send_many(VODS, views=2)
    world.flush()
    for parts, first in ((2, 7), (3, 9)):
        cut(world, parts)
        assert [stores.ledger.stream.id for stores in world.stores.of_each_stream()] == [*range(first, first + parts)]
        world.send_many(VODS, views=4)
        flush_all(world)
        world.assert_all_persisted()
    assert world.held() == Counter()
    assert set(world.incidents()) == {"postgres_rolled_back"}
