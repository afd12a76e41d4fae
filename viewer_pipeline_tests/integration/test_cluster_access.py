"""A Redis Cluster whose nodes are reached over TLS, or by IPv6, with a login of its own and one node in the URL."""

from __future__ import annotations

import hashlib
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from viewer_pipeline.cli.grants.acl import acl_line
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.cluster_store import as_cluster
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.layout import HOME_SLOT, key_slot
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect, redis_errors
from viewer_pipeline_tests.support.certificates import Authority
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_access import LOOPBACK_IPV6, ClusterAccess
from viewer_pipeline_tests.support.cluster_layout import PRIMARIES
from viewer_pipeline_tests.support.cluster_workers import SECONDS, wait_for_subscribers, watch
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, limit_shards, opened
from viewer_pipeline_tests.support.failover import started
from viewer_pipeline_tests.support.servers import redis_binary, tls_binary
from viewer_pipeline_tests.support.subscribers import SubscriberThread
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX

USER, PASSWORD = "narrow", "s3cret"
VODS = 30


@contextmanager
def pipeline(home: Path, database_url: str, access: ClusterAccess, binary: Path) -> Iterator[ClusterWorld]:
    """Open a world whose pipeline has the printed rights and knows one node."""
    with (
        started(RedisCluster(home, replicas=0, binary=binary, access=access)) as cluster,
        opened(cluster, database_url) as world,
    ):
        url = access.url([cluster.nodes[1].port], f"{USER}:{PASSWORD}@")
        settings = Settings(redis_url=url, database_url=database_url)
        for node in cluster.nodes:
            node.command(*shlex.split(acl_line(USER, settings, hashlib.sha256(PASSWORD.encode()).hexdigest())))
        with connect(url) as client:
            world.stores = replace(world.stores, redis=open_store(client, settings))
            yield world


def do_everything(world: ClusterWorld) -> None:
    """Flush; settle at the nodes to which slots have moved and are moving; let a worker announce; query each node."""
    cluster, store = world.cluster, as_cluster(world.stores.redis)
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS, views=2)
    snapshot, aggregated = world.drain()
    first, second = [key_slot(f"{PREFIX}{vod_id}".encode()) for vod_id in sorted(world.sent)[:2]]
    owners = {cluster.node_of_slot(first), cluster.node_of_slot(second)}
    target = next(node for node in cluster.primaries() if node not in owners)
    cluster.migrate_slot(first, target)
    migration = cluster.open_slot(second, target)
    migration.move(migration.remaining_keys())
    assert bulk_upsert(world.stores, snapshot, aggregated).notes.sentences() == []
    migration.finish()
    settings = Settings(redis_url=store.url, database_url=world.stores.ledger.url, pubsub_mode="announce")
    home = cluster.node_of_slot(HOME_SLOT)
    with SubscriberThread(settings):
        wait_for_subscribers(world, home)
        watch(world, "announced", next(node for node in cluster.nodes if node is not home))
        wait_until(lambda: store.changed_set_size_and_oldest()[0] == 1, SECONDS, "announced")
    world.flush("changed")
    world.assert_all_persisted()
    with store.node_clients() as clients:
        assert [client.ping() for client in clients.values()] == [True] * PRIMARIES


@pytest.fixture(autouse=True)
def few_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs make markers for the VODs of the tests only."""
    limit_shards(monkeypatch, ["announced", *(f"vod{number:04d}" for number in range(VODS))])


def test_over_tls(tmp_path: Path, database_url: str) -> None:
    """Also between the nodes. Neither a client without TLS nor one that trusts another authority is served."""
    binary, authority = tls_binary(), Authority(tmp_path / "authority")
    with pipeline(tmp_path / "nodes", database_url, ClusterAccess.over_tls(authority), binary) as world:
        do_everything(world)
        url = world.stores.redis.url
        untrusted = url.replace(str(authority.certificate), str(Authority(tmp_path / "other").certificate))
        for refused, reason in (
            (untrusted, "certificate verify failed"),
            (url.replace("rediss", "redis").partition("?")[0], "needs rediss://"),
        ):
            with (
                pytest.raises(ViewerPipelineError, match=reason),
                redis_errors(refused),
                connect(refused, retries=0) as client,
            ):
                client.ping()


def test_by_ipv6(tmp_path: Path, database_url: str) -> None:
    """Nodes name each other, and redirect, by addresses with colons in them."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind((LOOPBACK_IPV6, 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {LOOPBACK_IPV6}: {error}")
    with pipeline(tmp_path, database_url, ClusterAccess(LOOPBACK_IPV6), redis_binary()) as world:
        do_everything(world)
