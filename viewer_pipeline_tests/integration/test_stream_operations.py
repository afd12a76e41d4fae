"""Adjustments, reconciliation, retention, adoption and retirement of a pipeline with several streams."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest

from viewer_pipeline.errors import PipelineRefused
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.retention_position import read_retention_position
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.history.pruning import plan_ledger_pruning, prune_ledger
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.held_views import count_held, held_by_epoch
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, ReconcileResult, reconcile
from viewer_pipeline.reconcile.undo import undo_adjustment
from viewer_pipeline.streams import stream_of
from viewer_pipeline_tests.support.ledger_world import ONE, UTC_DAYS, History, at
from viewer_pipeline_tests.support.streams import cut, flush_all, world_of_each_kind
from viewer_pipeline_tests.support.world import World

__all__ = ["world_of_each_kind"]

VODS = 30


def reconcile_once(world: World, reports: Path, **options: Any) -> ReconcileResult:
    """Reconcile in batches of two."""
    return reconcile(world.stores, ReconcileRequest(uuid4().hex, reports, batch_size=2, **options))


@pytest.mark.parametrize("parts", [1, 2])
def test_adjustments_are_flushes_of_the_first_stream(world: World, parts: int, tmp_path: Path) -> None:
    """A repair and its undo advance its marker alone, wherever the VODs are; also where one stream has a number."""
    cut(world, 2)
    cut(world, parts)
    first = world.stores.of_each_stream()[0]
    world.send_many(VODS)
    flush_all(world)
    world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 5 WHERE vod_id < 'vod0008'")
    result = reconcile_once(world, tmp_path, repair=True)
    assert (result.repaired["total"], result.remaining) == (8, 0)
    assert {stream_of(seq) for seq in result.flushes} == {first.ledger.stream.id}
    world.assert_all_persisted()
    with first.ledger.connect() as connection:
        undo_adjustment(Adjuster(first, connection, "undo", 2), None, result.flushes[0])
        marker, last = first.redis.marker(), first.ledger.last_flush(connection)
    if not first.redis.layout.cluster:
        assert marker is not None
        assert marker.seq == last.seq
    assert reconcile_once(world, tmp_path, repair=True).remaining == 0
    world.send_many(VODS, 1)
    assert [note for report in flush_all(world) for note in report.notes.sentences()] == []
    world.assert_all_persisted()


def test_held_views_of_each_stream_are_counted(world: World) -> None:
    """Redis was emptied: each stream holds what came since under an epoch of its own; all are counted once."""
    cut(world, 2)
    world.send_many(VODS)
    flush_all(world)
    if world.stores.redis.layout.cluster:
        with world.stores.redis.node_clients() as nodes:
            for node in nodes.values():
                node.flushall()
    else:
        world.client.flushall()
    world.send_many(VODS)
    flush_all(world)
    assert world.held().total() == VODS * 3
    with world.stores.ledger.connect() as connection:
        epochs = held_by_epoch(connection)
        adjuster = Adjuster(world.stores.of_each_stream(connection)[0], connection, uuid4().hex, 2)
        for epoch in epochs:
            count_held(adjuster, None, epoch.epoch, 4)
    assert world.held() == Counter()
    flush_all(world)
    world.assert_all_persisted()


def test_reconcile_compares_the_marker_of_each_stream(world: World, tmp_path: Path) -> None:
    """The difference names the part."""
    cut(world, 2)
    world.send_many(VODS)
    flush_all(world)
    assert reconcile_once(world, tmp_path).differences["marker"] == 0
    world.send_many(VODS)
    second = world.stores.of_each_stream()[1]
    with patch.object(Settler, "add", lambda *_: None):
        snapshot = drain(second, world.request())
        bulk_upsert(second, snapshot, aggregate(snapshot.readings))
    world.execute("UPDATE viewer.flush SET committed_at = now() - interval '2 minutes'")
    (difference,) = reconcile_once(world, tmp_path).first_differences
    assert (difference.kind, difference.subject) == ("marker", "stream 2of2")
    assert "committed and not settled" in difference.message
    flush_all(world)
    assert reconcile_once(world, tmp_path).remaining == 0


def test_reconcile_is_refused_with_another_number_of_streams(world: World, tmp_path: Path) -> None:
    """The message names the command that helps."""
    cut(world, 2)
    world.stores = replace(world.stores, flush_streams=1)
    with pytest.raises(PipelineRefused, match=r"FLUSH_STREAMS=1, and the ledger has 2 streams; .*streams apply"):
        reconcile_once(world, tmp_path)


def flush_old(world: World, ago: int) -> None:
    """Flush all streams, as if counters had been read so many days ago; roll the day up."""
    for stream in world.stores.of_each_stream():
        snapshot = drain(stream, world.request(batch_size=100, flush_max_counters=100))
        snapshot = replace(snapshot, taken_at=at(datetime.now(UTC).date() - ONE * ago))
        bulk_upsert(stream, snapshot, aggregate(snapshot.readings))


def test_retention_prunes_what_each_stream_has_settled(world: World) -> None:
    """A stream whose marker stays behind keeps its day; the newest flush of each stream is kept."""
    history, today = History(world), datetime.now(UTC).date()
    world.send_many(VODS)
    flush_old(world, 44)
    cut(world, 2)
    for ago in (43, 42, 41):
        world.send_many(VODS, 1)
        flush_old(world, ago)
    history.roll_up(today - ONE * 50, today - ONE * 30)
    world.assert_all_persisted()
    cluster, limit = world.stores.redis.layout.cluster, today - ONE * 30
    with world.stores.ledger.connect() as connection:
        whole = read_retention_position(world.stores, connection, "prune")
        assert [stream_of(marker.seq) for marker in whole.markers] == [1, 2]
        assert whole.obstacle == ""
        behind = [whole.markers[0], whole.markers[1]._replace(seq=whole.markers[1].seq - 2)]
        plan = plan_ledger_pruning(connection, limit, behind, UTC_DAYS)
        assert [day.day for day in plan.days] == [today - ONE * 44, today - ONE * 43]
        assert "it has flush 2/2, the marker is at flush 2/1" in plan.stop_reason
        pruned = prune_ledger(connection, limit, whole.markers, 60, UTC_DAYS, keep_flush_of_marker=cluster)
    assert pruned.flushes == 4
    assert [stream_of(seq) for seq in world.seqs()] == [0, 1, 2]
    world.send_many(VODS, 1)
    assert [note for report in flush_all(world) for note in report.notes.sentences()] == []
    world.assert_all_persisted()
