"""Sweeps of a Redis Cluster in parts, while slots move and nodes die; and markers that PostgreSQL has left behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from viewer_pipeline.errors import PipelineRefused
from viewer_pipeline.flush.cluster_store import ClusterStore, as_cluster
from viewer_pipeline.flush.ledger_reads import last_flush
from viewer_pipeline.flush.marker_ownership import read_own_marker
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.sweep_position import CURSOR_BITS
from viewer_pipeline.flush.unannounced_counters import parse_scan_cursor, scan_for_unannounced
from viewer_pipeline.layout import HOME_SLOT, key_slot
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.settings import Settings
from viewer_pipeline.streams import WHOLE
from viewer_pipeline_tests.faults.test_cluster import TIMELINE
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, url_of

VODS = 40


def slot_of(vod_id: str) -> int:
    """Return the slot of a counter."""
    return key_slot(f"vod:views:{vod_id}".encode())


def in_the_order_of_scans(world: ClusterWorld) -> list[ClusterNode]:
    """Return the primaries in the order in which they are scanned."""
    return sorted(world.cluster.primaries(), key=lambda node: node.port)


def flushed_by(run: RunReport) -> list[str]:
    """Return the VODs whose views a run has committed."""
    return [vod_id for done in run.committed for batch in done.flush.batches for vod_id in batch.vod_ids]


def once_the_first_node_is_scanned(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Do something between the last SCAN of the first node and the first SCAN of the second one."""
    scan, done = ClusterStore._scan, list[object]()

    def scan_after_that(store: ClusterStore, cursor: int, count: int) -> tuple[int, list[bytes]]:
        if cursor >> CURSOR_BITS == 1 and not done:
            done.append(do())
        return scan(store, cursor, count)

    monkeypatch.setattr(ClusterStore, "_scan", scan_after_that)


def test_a_sweep_in_parts(cluster_world: ClusterWorld) -> None:
    """Each run continues where the one before ended, also at another node, while counters that were read get views."""
    world = cluster_world
    world.send_many(VODS)
    world.stores.redis.request_sweep("test")
    runs = list[RunReport]()
    while not runs or (runs[-1].remaining and len(runs) < VODS):
        runs.append(world.flush(run_max_counters=5))
        for vod_id in flushed_by(runs[-1]):
            world.send(vod_id, 1)
    assert [run.notes.sweep_restarted for run in runs] == [""] * len(runs)
    assert runs[-1].remaining == 0
    assert sum(len(flushed_by(run)) for run in runs) == VODS
    assert set(world.totals()) == set(world.sent)
    assert world.stores.redis.sweep_request() is None
    world.assert_conserved()


def test_the_scan_for_unannounced_counters_continues_at_the_node_where_it_ended(cluster_world: ClusterWorld) -> None:
    """Tick by tick, with a budget that is less than the keys of a node."""
    world, cursor, ids = cluster_world, 0, set[str]()
    world.send_many(VODS)
    for _ in range(VODS):
        scan = scan_for_unannounced(world.stores.redis, parse_scan_cursor(str(cursor)), 4, 60.0)
        cursor = scan.cursor
        ids.update(scan.vod_ids)
        if cursor == 0:
            break
    assert ids == set(world.sent)
    assert cursor == 0


def test_a_slot_moves_while_keys_are_scanned(cluster_world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a node that is not scanned yet to one that was: its counters are in no reply, and the pass ends nothing.

    Neither what is held in that slot, nor the request.
    """
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    world.flush()
    first, *_, last = in_the_order_of_scans(world)
    vod_id = next(vod_id for vod_id in world.sent if cluster.node_of_slot(slot_of(vod_id)) is last)
    world.client.delete(world.stores.redis.layout.marker_key(slot_of(vod_id) + 1))
    world.send(vod_id, 2)
    world.flush("ids", vod_ids=(vod_id,))
    assert world.held()[vod_id] == 2
    world.send(vod_id, 2)
    world.stores.redis.request_sweep("test")
    once_the_first_node_is_scanned(monkeypatch, lambda: cluster.migrate_slot(slot_of(vod_id), first))
    report = world.flush()
    monkeypatch.undo()
    assert "have moved" in report.notes.sweep_incomplete
    assert world.counters() == {vod_id: 2}
    assert world.stores.redis.sweep_request() is not None
    world.flush()
    assert world.held()[vod_id] == 4
    assert world.stores.redis.sweep_request() is None
    world.assert_all_persisted()


def test_a_slot_migrates_during_a_whole_sweep(cluster_world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is moved between two scans. All else is swept, part by part, and the request stays."""
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    first, *_, last = in_the_order_of_scans(world)
    vod_id = next(vod_id for vod_id in world.sent if cluster.node_of_slot(slot_of(vod_id)) is last)
    migration = cluster.open_slot(slot_of(vod_id), first)
    world.stores.redis.request_sweep("test")
    once_the_first_node_is_scanned(monkeypatch, lambda: migration.move([f"vod:views:{vod_id}"]))
    runs = world.flush_in_parts(5)
    monkeypatch.undo()
    assert [run.notes.sweep_restarted for run in runs] == [""] * len(runs)
    assert "migrates" in runs[-1].notes.sweep_incomplete
    assert world.counters() == {vod_id: 3}
    assert world.stores.redis.sweep_request() is not None
    migration.finish()
    world.flush()
    assert world.stores.redis.sweep_request() is None
    world.assert_all_persisted()


def test_a_node_dies_while_keys_are_scanned(cluster_world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the pass ends, its replica is known as the owner of its slots. It was not scanned all the same."""
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    world.stores.redis.request_sweep("test")
    cluster.wait_until_replicated()
    home = cluster.node_of_slot(HOME_SLOT)
    victim = next(node for node in reversed(in_the_order_of_scans(world)) if node is not home)
    wait = ClusterStore.wait_until_shards_durable

    def die() -> None:
        cluster.kill(victim)
        cluster.wait_for_promotion(victim)

    def wait_with_a_new_map(store: ClusterStore, *arguments: object) -> dict[int, str]:
        store.nodes.map.refresh()
        return wait(store, *arguments)  # type: ignore[arg-type]  # passed on

    once_the_first_node_is_scanned(monkeypatch, die)
    monkeypatch.setattr(ClusterStore, "wait_until_shards_durable", wait_with_a_new_map)
    report = world.flush()
    monkeypatch.undo()
    assert report.notes.sweep_incomplete
    assert world.counters()
    assert world.stores.redis.sweep_request() is not None
    world.flush()
    world.assert_all_persisted()


def test_the_number_of_the_home_marker_is_not_given_again(cluster_world: ClusterWorld) -> None:
    """It was made at a flush that no shard has settled, and that PostgreSQL loses: another one gets a later number."""
    world = cluster_world
    redis, ledger = as_cluster(world.stores.redis), world.stores.ledger
    world.send("vod0001", 3)
    world.flush()
    world.send("vod0001", 3)
    world.flush_unsettled()
    world.client.delete(redis.names.marker)
    with ledger.connect() as connection, redis.on_one_connection() as nodes:
        nodes.begin("of a run that dies", last_flush(connection, WHOLE), ledger.identity(connection))
    world.execute("DELETE FROM viewer.flush_batch WHERE seq = 2")
    world.execute("DELETE FROM viewer.flush WHERE seq = 2")
    world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count - 3")
    world.execute(TIMELINE)
    world.flush()
    world.assert_all_persisted()
    with ledger.connect() as connection:
        assert read_own_marker(redis, ledger, connection) is not None
    assert world.seqs() == [1, 3]


def test_markers_of_a_node_that_was_down_while_postgres_lost_flushes(cluster_world: ClusterWorld) -> None:
    """They are at a lost flush whose number another one has. The error names them; made again, their views are held."""
    world = cluster_world
    world.send("vod0001", 3)
    world.send("vod0002", 3)
    world.flush()
    key = world.stores.redis.layout.marker_key(slot_of("vod0002") + 1)
    world.client.hset(key, "flush_id", "f7be8626-be74-454f-b51b-be336a9bdac5")
    world.send("vod0001", 1)
    world.flush("ids", vod_ids=("vod0001",))
    world.send("vod0002", 2)
    with pytest.raises(PipelineRefused) as refused:
        world.flush()
    assert str(refused.value).endswith(f"`viewer-pipeline docs redis-cluster` says what to do with the markers: {key}")
    settings = Settings(redis_url=url_of(world.cluster), database_url=world.stores.ledger.url)
    with closing(HealthProbes(settings, seconds=10)) as probes:
        for _ in range(2):  # all markers are read at first only
            marker = by_name(probes.check_settling())["marker"]
            assert (marker.status, marker.message) == ("unhealthy", str(refused.value))
        world.client.hdel(key, "flush", "missing")
        world.flush()
        assert by_name(probes.check_settling())["marker"].status == "healthy"
    assert world.held() == {"vod0002": 2}
    world.assert_all_persisted()
