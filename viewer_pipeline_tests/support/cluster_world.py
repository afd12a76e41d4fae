"""A Redis Cluster and a ledger with the views that a test sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.layout import Layout, key_slot
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.world import PREFIX, World


class ClusterWorld(World):
    """A world whose producer follows redirections, as clients of a cluster do."""

    def __init__(self, stores: Stores, cluster: RedisCluster) -> None:
        super().__init__(stores)
        self.cluster = cluster
        producer: Any = cluster.cluster_client()
        self.client = producer

    def counters(self) -> dict[str, int]:
        """Pending views: the counters that any primary holds."""
        return self.cluster.counters(self.prefix)


def url_of(cluster: RedisCluster) -> str:
    """Return the URL of a cluster: its first two nodes are seeds."""
    return cluster.access.url(node.port for node in cluster.nodes[:2])


def limit_shards(monkeypatch: pytest.MonkeyPatch, vod_ids: Iterable[str]) -> None:
    """Let runs make markers for the shards of these VODs only: all 16384 take the first run of a test a second."""
    shards = sorted({key_slot((PREFIX + vod_id).encode()) + 1 for vod_id in vod_ids})
    monkeypatch.setattr(Layout, "shards", shards)


@contextmanager
def opened(cluster: RedisCluster, database_url: str) -> Iterator[ClusterWorld]:
    """Open a world on a cluster and a database."""
    url = url_of(cluster)
    with connect(url) as client:
        yield ClusterWorld(Stores(ClusterStore(client, url, PREFIX), Ledger(database_url)), cluster)
