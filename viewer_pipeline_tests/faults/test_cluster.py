"""Flushes on a real Redis Cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from viewer_pipeline.flush.verify import verify
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, opened


@pytest.fixture
def cluster_world(redis_cluster: RedisCluster, database_url: str) -> Iterator[ClusterWorld]:
    """An empty cluster and an empty ledger."""
    with opened(redis_cluster, database_url) as world:
        yield world


def test_flush(cluster_world: ClusterWorld) -> None:
    """Views of counters all over the slots are persisted once, by sweeps and by announcements."""
    world = cluster_world
    world.send_many(40)
    world.send("{vod0001}a", 5)
    report = world.flush()
    assert report.notes.sentences() == []
    assert [check.status for check in verify(world.stores, report)] == ["healthy"] * 4
    world.assert_all_persisted()
    world.send("vod0003", 2, announce=True)
    world.send("vod0009", 2, announce=True)
    report = world.flush("changed")
    assert report.views == 4
    world.assert_all_persisted()
    assert world.stores.redis.changed_set_size_and_oldest()[0] == 0


def test_a_committed_flush_is_settled_by_the_next_run(cluster_world: ClusterWorld) -> None:
    """The run that committed it has died."""
    world = cluster_world
    world.send_many(30)
    world.flush_unsettled()
    world.send_many(30, views=2)
    report = world.flush()
    assert report.notes.settled_before == 30
    world.assert_all_persisted()
