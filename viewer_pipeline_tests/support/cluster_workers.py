"""Workers under test on a Redis Cluster, and what producers send them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, url_of
from viewer_pipeline_tests.support.subscribers import CHANNEL, SubscriberThread, message
from viewer_pipeline_tests.support.waiting import wait_until

SECONDS = 60
WATCHED = [f"live{number}" for number in range(50)]


def worker_of(world: ClusterWorld, mode: str = "announce") -> SubscriberThread:
    """Return a worker's subscriber, which `with` runs."""
    url, redis_url = world.stores.ledger.url, url_of(world.cluster)
    return SubscriberThread(Settings(database_url=url, redis_url=redis_url, pubsub_mode=mode))


def watch(world: ClusterWorld, vod_id: str, node: ClusterNode) -> None:
    """Count a view and publish a message of it at a node, as Streamix does for each view."""
    world.send(vod_id)
    node.client.publish(CHANNEL, message(vod_id))


def publish(world: ClusterWorld, vod_id: str, node: ClusterNode, views: int = 1) -> None:
    """Publish views at a node, as producers do that count nothing themselves."""
    node.client.publish(CHANNEL, message(vod_id, views))
    world.sent[vod_id] += views


@contextmanager
def viewers(world: ClusterWorld, nodes: Iterable[ClusterNode], *, counts: bool = True) -> Iterator[None]:
    """Let viewers watch VODs, WATCHED, until the end of the block.

    The messages are published at each of these nodes in turn. `counts`: their producers also count them.
    """
    stop, publishing = threading.Event(), cycle(nodes)

    def run() -> None:
        for vod_id in cycle(WATCHED):
            if stop.wait(0.005):
                return
            (watch if counts else publish)(world, vod_id, next(publishing))

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


def subscribers_at(world: ClusterWorld, node: ClusterNode) -> int:
    """Return how many workers are subscribed at a node."""
    space: Any = world.client.hget(world.stores.redis.names.subscriber, "id")
    cuts = world.stores.redis.names.cuts_channel((space or b"").decode())
    counts: Any = node.client.pubsub_numsub(cuts)
    return int(counts[0][1])


def end_lease(world: ClusterWorld) -> None:
    """Let the lease run out, so that no test waits for it."""
    world.client.hset(world.stores.redis.names.subscriber, "expires", 0)


def wait_for_subscribers(world: ClusterWorld, node: ClusterNode, expected: int = 1) -> None:
    """Wait until so many workers are subscribed at a node."""
    wait_until(lambda: subscribers_at(world, node) == expected, SECONDS, f"{expected} subscribed at {node}")
