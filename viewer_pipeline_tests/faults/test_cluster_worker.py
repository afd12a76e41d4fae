"""The worker on a real Redis Cluster: what producers publish at any node is announced, whatever nodes and slots do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count, cycle
from typing import Any

import pytest

from viewer_pipeline.cli.worker_process import run_worker
from viewer_pipeline.errors import SettingsError
from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.layout import HOME_SLOT
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, opened, url_of
from viewer_pipeline_tests.support.subscribers import CHANNEL, SubscriberThread, message
from viewer_pipeline_tests.support.waiting import wait_until

Work = Callable[..., SubscriberThread]
SECONDS = 60


@pytest.fixture
def world(redis_cluster: RedisCluster, database_url: str) -> Iterator[ClusterWorld]:
    """An empty cluster and an empty ledger."""
    with opened(redis_cluster, database_url) as opened_world:
        yield opened_world


@pytest.fixture
def work(world: ClusterWorld) -> Work:
    """Return a function that makes a worker's subscriber; `with` runs it."""
    return lambda: SubscriberThread(settings_of(world))


def settings_of(world: ClusterWorld, **settings: Any) -> Settings:
    """Return the settings of a worker."""
    given = {"database_url": world.stores.ledger.url, "redis_url": url_of(world.cluster), "pubsub_mode": "announce"}
    return Settings(**given | settings)


def watch(world: ClusterWorld, vod_id: str, node: ClusterNode) -> None:
    """Count a view and publish a message of it at a node, as Streamix does for each view."""
    world.send(vod_id)
    node.client.publish(CHANNEL, message(vod_id))


@contextmanager
def viewers(world: ClusterWorld) -> Iterator[None]:
    """Let viewers watch 50 VODs until the end of the block; the messages are published at each primary in turn."""
    stop, nodes = threading.Event(), cycle(world.cluster.primaries())

    def run() -> None:
        for number in count():
            if stop.wait(0.005):
                return
            watch(world, f"live{number % 50}", next(nodes))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(SECONDS)


def announced(world: ClusterWorld) -> dict[bytes, float]:
    """Return the changed set: id -> time in ms."""
    members: Any = world.client.zrange(world.stores.redis.names.changed, 0, -1, withscores=True)
    return dict(members)


def wait_until_announced(world: ClusterWorld, *vod_ids: str) -> None:
    """Wait until these VODs are in the changed set."""
    wait_until(lambda: announced(world).keys() >= {v.encode() for v in vod_ids}, SECONDS, f"announced: {vod_ids}")


def subscribers_at(world: ClusterWorld, node: ClusterNode) -> int:
    """Return how many workers are subscribed at a node."""
    space: Any = world.client.hget(world.stores.redis.names.subscriber, "id")
    cuts = world.stores.redis.names.cuts_channel((space or b"").decode())
    counts: Any = node.client.pubsub_numsub(cuts)
    return int(counts[0][1])


def assert_flush_of_announced_persists_all(world: ClusterWorld) -> None:
    """A run that reads only what was announced persists every view, and leaves no announcement."""
    world.flush("changed")
    world.assert_all_persisted()
    assert announced(world) == {}


def test_messages_published_at_any_node_are_announced(world: ClusterWorld, work: Work) -> None:
    """Also at replicas, and for ids with a hash tag. The worker is subscribed at the node of the home slot."""
    with work() as worker:
        ids = [f"vod{number}" for number in range(60)] + ["{vod}a", "{viewer}"]
        for vod_id, node in zip(ids, cycle(world.cluster.nodes), strict=False):
            watch(world, vod_id, node)
        wait_until_announced(world, *ids)
        assert subscribers_at(world, world.cluster.node_of_slot(HOME_SLOT)) == 1
        assert_flush_of_announced_persists_all(world)
        assert (worker.stats.received, worker.stats.losses) == (len(ids), {})


def test_a_vod_that_is_announced_during_a_run_stays_announced(world: ClusterWorld, work: Work) -> None:
    """Its counter was read before, and the run removes only what was announced before it began to read."""
    home = world.cluster.node_of_slot(HOME_SLOT)
    with work():
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


def test_the_home_slot_migrates(world: ClusterWorld, work: Work) -> None:
    """There and back, key by key, while viewers watch and runs flush: the worker follows it and requests a sweep."""
    cluster = world.cluster
    home = cluster.node_of_slot(HOME_SLOT)
    other = next(node for node in cluster.primaries() if node is not home)
    with work() as worker:
        for target in (other, home):
            wait_until(world.stores.redis.sweep_request, SECONDS, "a sweep is requested")
            world.client.hdel(world.stores.redis.names.subscriber, "sweep")
            with viewers(world):
                migration = cluster.open_slot(HOME_SLOT, target)
                migration.move([world.stores.redis.names.subscriber])
                wait_until(lambda: worker.stats.refusal_reason, SECONDS, "its scripts are refused")
                migration.finish()
                wait_until(lambda: subscribers_at(world, target) == 1, SECONDS, f"subscribed at {target}")  # noqa: B023
                world.flush("changed")
            wait_until(world.stores.redis.sweep_request, SECONDS, "a sweep is requested")
        assert worker.stats.losses == {"moved": 2}
        watch(world, "last", home)
        wait_until_announced(world, "last")
    world.flush("sweep")
    world.assert_all_persisted()


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_the_home_node_fails(world: ClusterWorld, work: Work, fault: str) -> None:
    """Its replica is promoted: the worker subscribes there, and announces what is published since."""
    cluster = world.cluster
    home = cluster.node_of_slot(HOME_SLOT)
    with work() as worker:
        watch(world, "before", home)
        wait_until_announced(world, "before")
        cluster.wait_until_replicated()
        getattr(home, fault)()
        promoted = cluster.wait_for_promotion(home)
        wait_until(lambda: subscribers_at(world, promoted) == 1, SECONDS, f"subscribed at {promoted}")
        wait_until(lambda: worker.state == "listening", SECONDS, "it has the lease")
        for number, node in enumerate(cluster.primaries()):
            watch(world, f"after{number}", node)
        wait_until_announced(world, "before", "after0", "after1", "after2")
        assert_flush_of_announced_persists_all(world)


def test_another_worker_takes_over(world: ClusterWorld, work: Work) -> None:
    """The holder of the lease dies with messages in memory, which the other has received as well."""
    first = work().start()
    with work() as second:
        wait_until(lambda: second.state == "standby", SECONDS, "the second stands by")
        first.freeze()
        watch(world, "a", world.cluster.nodes[1])
        wait_until(lambda: second.stats.accepted, SECONDS, "received by the second")
        first.die()
        wait_until_announced(world, "a")
        assert_flush_of_announced_persists_all(world)
    first.rejections.stop()


def test_increment_mode_is_refused(world: ClusterWorld) -> None:
    """With both settings and what to do."""
    both = f"PUBSUB_MODE='increment' with REDIS_URL='{url_of(world.cluster)}': "
    with pytest.raises(SettingsError, match=re.escape(both) + ".* set PUBSUB_MODE=announce, or use a single Redis$"):
        run_worker(settings_of(world, pubsub_mode="increment"), lambda _: "")
