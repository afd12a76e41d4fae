"""Repairs, decisions about held views, retention and retirement on a real Redis Cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.errors import CannotAdopt, PipelineRefused, RedisUnavailable
from viewer_pipeline.flush.adoption import adopt_pipeline
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.cluster_store import ClusterStore, as_cluster
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.retention_position import read_retention_position
from viewer_pipeline.flush.retirement import retire_pipeline
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.history.pruning import prune_ledger
from viewer_pipeline.layout import HOME_SLOT, SHARDS
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.held_views import count_held, held_by_epoch
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, ReconcileResult, reconcile
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, opened
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.world import PREFIX

VODS = 30
FOREIGN = "other-ledger/7000000000000000000/16384"


@pytest.fixture
def world(redis_cluster: RedisCluster, database_url: str) -> Iterator[ClusterWorld]:
    """An empty cluster and an empty ledger."""
    with opened(redis_cluster, database_url) as world:
        yield world


def reconcile_once(world: ClusterWorld, reports: Path, **options: Any) -> ReconcileResult:
    """Reconcile in batches of two."""
    return reconcile(world.stores, ReconcileRequest(uuid4().hex, reports, batch_size=2, **options))


def markers(world: ClusterWorld) -> dict[int, Marker | None]:
    """Return the marker of each shard."""
    return as_cluster(world.stores.redis).shard_markers()


def node_without_home(world: ClusterWorld) -> ClusterNode:
    """Return a primary that has counters only."""
    home = world.cluster.node_of_slot(HOME_SLOT)
    return next(node for node in world.cluster.primaries() if node is not home)


def test_reconcile(world: ClusterWorld, tmp_path: Path) -> None:
    """A repair supersedes a run that read before it, and subtracts nothing. What should be settled is a difference."""
    world.send_many(VODS)
    world.flush()
    world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 5 WHERE vod_id < 'vod0004'")
    world.send_many(VODS, 1)
    snapshot, aggregated = world.drain()
    result = reconcile_once(world, tmp_path, repair=True)
    assert (result.repaired["total"], result.remaining) == (4, 0)
    assert bulk_upsert(world.stores, snapshot, aggregated).notes.superseded == 1
    world.assert_all_persisted()
    world.send_many(VODS)
    world.flush_unsettled()
    assert reconcile_once(world, tmp_path).remaining == 0
    world.execute("UPDATE viewer.flush SET committed_at = now() - interval '2 minutes'")
    (difference,) = reconcile_once(world, tmp_path).first_differences
    assert difference.kind == "marker"
    assert difference.message.startswith(f"8 flushes committed and not settled in {VODS} shards, the oldest 2 min")
    world.flush()
    assert reconcile_once(world, tmp_path).remaining == 0


@contextmanager
def short_time_out(world: ClusterWorld) -> Iterator[None]:
    """Within the block, a node that does not answer is given up after half a second."""
    stores, url = world.stores, f"{world.stores.redis.url}?socket_timeout=0.5"
    with connect(url) as client:
        world.stores = replace(stores, redis=ClusterStore(client, url, PREFIX))
        yield
    world.stores = stores


def test_held_views_are_counted(world: ClusterWorld) -> None:
    """A node lost its data, and new views came in there: they are held, and an operator decides."""
    world.send_many(VODS)
    world.flush()
    node_without_home(world).client.flushall()
    world.send_many(VODS)
    world.flush()
    held = world.held()
    assert held
    with world.stores.ledger.connect() as connection:
        epochs = held_by_epoch(connection)
        assert sum(epoch.views for epoch in epochs) == held.total()
        adjuster = Adjuster(world.stores, connection, uuid4().hex, 2)
        for epoch in epochs:
            count_held(adjuster, None, epoch.epoch, 4)
    assert world.held() == Counter()
    report = world.flush()
    assert [check.status for check in verify(world.stores, report)] == ["healthy"] * 4
    world.assert_all_persisted()


def old_flushes(world: ClusterWorld) -> History:
    """Commit a flush on each of three old days, and roll the days up."""
    history, today = History(world), datetime.now(UTC).date()
    for ago in (42, 41, 40):
        history.send_and_flush(at(today - ONE * ago), {f"vod{ago}": ago, "often": 1})
    history.roll_up(today - ONE * 50, today - ONE * 30)
    return history


def prune(world: ClusterWorld) -> int:
    """Prune the ledger as the retention job does; return how many flushes."""
    before = datetime.now(UTC).date() - ONE * 30
    with world.stores.ledger.connect() as connection:
        marker, obstacle = read_retention_position(world.stores, connection, "prune")
        if obstacle:
            raise RedisUnavailable(obstacle)
        zone = History(world).zone
        return prune_ledger(connection, before, marker, 60, zone, keep_flush_of_marker=True).flushes


def test_retention_keeps_the_flush_that_markers_stand_at(world: ClusterWorld) -> None:
    """Although newer flushes follow: other shards do not move."""
    old_flushes(world)
    with world.stores.ledger.connect() as connection:
        position = read_retention_position(world.stores, connection, "prune")
    assert position.marker is not None
    world.send("vod", 1)
    world.flush()
    with world.stores.ledger.connect() as connection:
        before, zone = datetime.now(UTC).date() - ONE * 30, History(world).zone
        pruned = prune_ledger(connection, before, position.marker, 60, zone, keep_flush_of_marker=True)
    assert (pruned.flushes, world.seqs()) == (2, [3, 4])
    world.send_many(VODS)
    assert world.flush().notes.sentences() == []
    world.assert_all_persisted()


def test_retention_prunes_nothing_while_a_node_is_down(world: ClusterWorld) -> None:
    """Its markers cannot be advanced. The reason names it."""
    old_flushes(world)
    down = node_without_home(world)
    with short_time_out(world):
        down.pause()
        with pytest.raises(RedisUnavailable, match="shards of the cluster cannot be settled now") as raised:
            prune(world)
        down.resume()
    assert str(down.port) in str(raised.value)
    assert world.seqs() == [1, 2, 3]
    assert prune(world) == 2


def test_a_pipeline_is_retired_with_all_its_markers(world: ClusterWorld) -> None:
    """Committed views are subtracted first; the remaining ones are for the next pipeline."""
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS)
    world.flush_unsettled()
    world.send_many(VODS, 1)
    with pytest.raises(CannotAdopt, match="are left"):
        retire_pipeline(world.stores.redis, PREFIX)
    assert retire_pipeline(world.stores.redis, PREFIX, settled_by=world.stores.ledger)
    assert world.counters() == {f"vod{number:04d}": 1 for number in range(VODS)}
    assert set(markers(world).values()) == {None}
    assert not retire_pipeline(world.stores.redis, "unknown:")
    world.execute("TRUNCATE viewer.vod_view_counts, viewer.flush, viewer.flush_batch CASCADE")
    world.sent = Counter(world.counters())
    world.flush()
    world.assert_all_persisted()


def test_counters_of_another_database(world: ClusterWorld) -> None:
    """A run is refused, and so is `adopt`. Without markers, what may have been counted before is held."""
    world.send_many(VODS)
    world.flush()
    assert not adopt_pipeline(world.stores).changed
    home = as_cluster(world.stores.redis)
    with world.stores.ledger.connect() as connection:
        place = world.stores.ledger.identity(connection).place
    world.client.hset(home.names.registry, PREFIX, f"{FOREIGN} elsewhere")
    for shard in SHARDS[:3]:
        world.client.hset(home.layout.marker_key(shard), "ledger", FOREIGN)
    world.client.hset(home.names.marker, "ledger", FOREIGN)
    with pytest.raises(PipelineRefused, match=place):
        world.flush()
    with pytest.raises(CannotAdopt, match="docs redis-cluster"):
        adopt_pipeline(world.stores, "from-here")
    world.send_many(VODS, 5)
    for node in world.cluster.primaries():  # what that page describes
        for key in node.client.scan_iter("viewer:*", 1000):
            node.client.delete(key)
    world.flush()
    assert world.held() == Counter({f"vod{number:04d}": 3 for number in range(VODS)})
    world.assert_all_persisted()


def test_a_repair_of_an_emptied_cluster(world: ClusterWorld, tmp_path: Path) -> None:
    """It makes the markers, as a flush would; its number is above all that were there."""
    world.send_many(VODS)
    world.flush()
    for node in world.cluster.primaries():
        node.client.flushall()
    world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 5 WHERE vod_id = 'vod0001'")
    assert reconcile_once(world, tmp_path, repair=True).repaired["total"] == 1
    assert world.incidents().keys() == {"redis_emptied"}
    assert None not in markers(world).values()
    world.send("new", 1)
    world.flush()
    world.assert_all_persisted()


def test_retention_beside_a_run(world: ClusterWorld, dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """It advances all markers, so none stands at a flush that is deleted; a run between read and commit continues."""
    old_flushes(world)
    world.send_many(VODS)
    world.flush_unsettled()
    newest = world.seqs()[-1]
    world.send_many(VODS, 2)
    snapshot, _ = world.drain()
    settings = dagster_settings.copy_unvalidated(redis_url=world.stores.redis.url)
    job = defs.resolve_job_def("prune_ledger_days")
    result = job.execute_in_process(instance=dagster.instance, resources={"settings": settings})
    (event,) = [event for event in result.all_node_events if event.is_successful_output]
    assert event.step_output_data.metadata["flushes"].value == 3
    assert {marker and marker[:2] for marker in markers(world).values()} == {(newest, 2)}
    report = bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    assert report.notes.unsettled_shards == 0
    world.send("often", 3)
    assert world.flush().notes.sentences() == []
    world.assert_all_persisted()
    assert world.held() == Counter()
