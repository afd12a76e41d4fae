"""The worker on a real Redis Cluster: what producers publish at any node is announced, whatever nodes and slots do."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import cycle

import pytest

from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.layout import HOME_SLOT
from viewer_pipeline_tests.support.cluster_workers import (
    SECONDS,
    WATCHED,
    announced,
    end_lease,
    subscribers_at,
    viewers,
    wait_for_subscribers,
    watch,
    worker_of,
)
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, limit_shards
from viewer_pipeline_tests.support.waiting import wait_until

IDS = [f"vod{number}" for number in range(60)] + ["{vod}a", "{viewer}"]


@pytest.fixture
def world(cluster_world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> ClusterWorld:
    """An empty cluster and an empty ledger."""
    limit_shards(monkeypatch, [*IDS, *WATCHED, "a", "before", "after0", "after1", "after2", "last"])
    return cluster_world


def wait_until_announced(world: ClusterWorld, *vod_ids: str) -> None:
    """Wait until these VODs are in the changed set."""
    wait_until(lambda: announced(world).keys() >= {v.encode() for v in vod_ids}, SECONDS, f"announced: {vod_ids}")


def assert_flush_of_announced_persists_all(world: ClusterWorld) -> None:
    """A run that reads only what was announced persists every view, and leaves no announcement."""
    world.flush("changed")
    world.assert_all_persisted()
    assert announced(world) == {}


def test_messages_published_at_any_node_are_announced(world: ClusterWorld) -> None:
    """Also at replicas, and for ids with a hash tag. The worker is subscribed at the node of the home slot."""
    with worker_of(world) as worker:
        for vod_id, node in zip(IDS, cycle(world.cluster.nodes), strict=False):
            watch(world, vod_id, node)
        wait_until_announced(world, *IDS)
        assert subscribers_at(world, world.cluster.node_of_slot(HOME_SLOT)) == 1
        assert_flush_of_announced_persists_all(world)
        assert (worker.stats.received, worker.stats.losses) == (len(IDS), {})


def test_a_vod_that_is_announced_during_a_run_stays_announced(world: ClusterWorld) -> None:
    """Its counter was read before, and the run removes only what was announced before it began to read."""
    home = world.cluster.node_of_slot(HOME_SLOT)
    with worker_of(world):
        watch(world, "a", home)
        wait_until_announced(world, "a")
        first = announced(world)[b"a"]
        snapshot, aggregated = world.drain("changed")
        watch(world, "a", home)
        wait_until(lambda: announced(world)[b"a"] > first, SECONDS, "announced again")
        assert bulk_upsert(world.stores, snapshot, aggregated).views == 1
        assert announced(world).keys() == {b"a"}
        assert_flush_of_announced_persists_all(world)


def test_a_vod_is_removed_only_if_it_was_announced_before(world: ClusterWorld) -> None:
    """Also the sensor announces it again, with a later time; and an announcement in the same millisecond is later."""
    store = world.stores.redis
    assert isinstance(store, ClusterStore)
    assert store.add_to_changed_set(["a"]) == 1
    first = announced(world)[b"a"]
    wait_until(lambda: store.now().timestamp() * 1000 > first + 1, SECONDS, "a later millisecond")
    assert store.add_to_changed_set(["a"]) == 0
    second = announced(world)[b"a"]
    assert second > first
    store.remove_announced_until(datetime.fromtimestamp(second / 1000, UTC), ["a"])
    assert announced(world) == {b"a": second}
    store.remove_announced_until(datetime.fromtimestamp((second + 1) / 1000, UTC), ["a"])
    assert announced(world) == {}


def test_the_home_slot_migrates(world: ClusterWorld) -> None:
    """There and back, key by key, while viewers watch and runs flush: the worker follows it and requests a sweep."""
    cluster = world.cluster
    home = cluster.node_of_slot(HOME_SLOT)
    other = next(node for node in cluster.primaries() if node is not home)
    with worker_of(world) as worker:
        for target in (other, home):
            wait_until(world.stores.redis.sweep_request, SECONDS, "a sweep is requested")
            world.client.hdel(world.stores.redis.names.subscriber, "sweep")
            with viewers(world, cluster.primaries()):
                migration = cluster.open_slot(HOME_SLOT, target)
                migration.move([world.stores.redis.names.subscriber])
                wait_until(lambda: worker.stats.refusal_reason, SECONDS, "its scripts are refused")
                migration.finish()
                wait_for_subscribers(world, target)
                world.flush("changed")
            wait_until(world.stores.redis.sweep_request, SECONDS, "a sweep is requested")
        assert worker.stats.losses == {"moved": 2}
        watch(world, "last", home)
        wait_until_announced(world, "last")
    world.flush("sweep")
    world.assert_all_persisted()


def test_the_home_node_is_paused(world: ClusterWorld) -> None:
    """Its replica is promoted: the worker subscribes there, and announces what is published since."""
    cluster = world.cluster
    home = cluster.node_of_slot(HOME_SLOT)
    with worker_of(world) as worker:
        watch(world, "before", home)
        wait_until_announced(world, "before")
        cluster.wait_until_replicated()
        home.pause()
        promoted = cluster.wait_for_promotion(home)
        wait_for_subscribers(world, promoted)
        wait_until(lambda: worker.state == "listening", SECONDS, "it has the lease")
        for number, node in enumerate(cluster.primaries()):
            watch(world, f"after{number}", node)
        wait_until_announced(world, "before", "after0", "after1", "after2")
        assert_flush_of_announced_persists_all(world)


def test_another_worker_takes_over(world: ClusterWorld) -> None:
    """The holder of the lease dies with messages in memory, which the other has received as well."""
    first = worker_of(world).start()
    with worker_of(world) as second:
        wait_until(lambda: second.state == "standby", SECONDS, "the second stands by")
        first.freeze()
        watch(world, "a", world.cluster.nodes[1])
        wait_until(lambda: second.stats.accepted, SECONDS, "received by the second")
        first.die()
        end_lease(world)
        wait_until_announced(world, "a")
        assert_flush_of_announced_persists_all(world)
    first.rejections.stop()
