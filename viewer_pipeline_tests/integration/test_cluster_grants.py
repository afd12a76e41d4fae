"""A user with the printed rights on each node of a Redis Cluster can do the work; none of them is superfluous."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import redis

from viewer_pipeline.cli.grants.acl import acl_line
from viewer_pipeline.errors import RedisFailed
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.flush.retention_position import read_retention_position
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.layout import HOME_SLOT, Layout, key_slot
from viewer_pipeline.monitoring.doctor.run_checks import run_doctor_checks
from viewer_pipeline.monitoring.status import read_status
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, reconcile
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.stores.table_privileges_and_redis_commands import CLUSTER_COMMANDS
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, opened
from viewer_pipeline_tests.support.streams import cut, flush_all
from viewer_pipeline_tests.support.subscribers import CHANNEL, SubscriberThread, message
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX

USER, PASSWORD = "narrow", "s3cret"
MOVING = "{moving}"  # ids with this hash tag are in one slot


@pytest.fixture
def narrow(redis_cluster: RedisCluster, database_url: str) -> Iterator[ClusterWorld]:
    """A world whose pipeline logs in as a user with the printed rights; its producer may do everything."""
    settings = Settings(redis_url=redis_cluster.url)
    line = acl_line(USER, settings, hashlib.sha256(PASSWORD.encode()).hexdigest())
    for node in redis_cluster.nodes:
        node.command(*shlex.split(line))
    url = redis_cluster.url.replace("://", f"://{USER}:{PASSWORD}@")
    with opened(redis_cluster, database_url) as world, connect(url) as client:
        store = open_store(client, settings.copy_unvalidated(redis_url=url))
        world.stores = replace(world.stores, redis=store)
        yield world
    for node in redis_cluster.nodes:
        node.command("ACL", "DELUSER", USER)


@contextmanager
def half_moved_slot(world: ClusterWorld) -> Iterator[None]:
    """Within the block, the keys of a slot are at the node to which it migrates, and the slot itself is not."""
    cluster, slot = world.cluster, key_slot((PREFIX + MOVING).encode())
    source = cluster.node_of_slot(slot)
    migration = cluster.open_slot(slot, next(node for node in cluster.primaries() if node != source))
    migration.move(migration.remaining_keys())
    yield
    migration.finish()


def do_everything(world: ClusterWorld) -> None:
    """Flush what was announced, sweep, settle what was left, also in a slot that migrates."""
    world.send("vod0001", 2, announce=True)
    world.flush("changed")
    world.send_many(10)
    world.flush_unsettled()
    world.send(f"{MOVING}a", 4)
    snapshot, aggregated = world.drain()
    with half_moved_slot(world):
        report = bulk_upsert(world.stores, snapshot, aggregated)
    assert report.notes.sentences() == ["settled 10 batches that an earlier run had committed"]
    assert [check.status for check in verify(world.stores, report)] == ["healthy"] * 4
    assert world.stores.redis.changed_set_size_and_oldest()[0] == 0
    world.assert_all_persisted()


def test_everything(narrow: ClusterWorld) -> None:
    """Nothing else is needed."""
    do_everything(narrow)


@pytest.mark.parametrize("mode", ["announce", "increment"])
def test_a_worker(narrow: ClusterWorld, mode: Literal["announce", "increment"]) -> None:
    """It takes the lease, counts and announces."""
    store, ledger = narrow.stores.redis, narrow.stores.ledger
    with SubscriberThread(Settings(database_url=ledger.url, redis_url=store.url, pubsub_mode=mode)) as worker:
        wait_until(lambda: worker.state == "listening", 30, "it has the lease")
        narrow.cluster.nodes[0].client.publish(CHANNEL, message("a"))
        wait_until(lambda: store.changed_set_size_and_oldest()[0] == 1, 30, "announced")


def test_checks_and_retention(narrow: ClusterWorld, tmp_path: Path) -> None:
    """Doctor and status read each node, retention advances all markers, a repair is committed."""
    narrow.send_many(10)
    narrow.flush_unsettled()
    store, ledger = narrow.stores.redis, narrow.stores.ledger
    settings = Settings(database_url=ledger.url, redis_url=store.url, redis_wait_replicas=0, viewer_home=tmp_path)
    with ledger.connect() as connection:
        assert read_retention_position(narrow.stores, connection, "prune").obstacle == ""
    results = [result for result in run_doctor_checks(settings) if result.name.startswith("redis")]
    assert [result.message for result in results if result.status == "unhealthy"] == []
    assert read_status(settings).failures == {}
    narrow.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 1 WHERE vod_id = 'vod0001'")
    assert reconcile(narrow.stores, ReconcileRequest("run", tmp_path, repair=True)).repaired["total"] == 1
    narrow.assert_all_persisted()


@pytest.mark.parametrize("command", sorted({command.partition("|")[0] for command in CLUSTER_COMMANDS}))
def test_no_right_is_superfluous(narrow: ClusterWorld, command: str) -> None:
    """Without it something fails that works with it."""
    for node in narrow.cluster.nodes:
        node.command("ACL", "SETUSER", USER, f"-{command}")
    with pytest.raises((RedisFailed, AssertionError)):
        do_everything(narrow)


def test_markers_of_other_pipelines_are_out_of_reach(narrow: ClusterWorld) -> None:
    """A user may write the markers of its own pipeline only."""
    layout = Layout.of(narrow.cluster.url, "shop:")
    with connect(narrow.stores.redis.url) as client:
        for key in (layout.marker_key(HOME_SLOT + 1), layout.names.marker, layout.names.changed):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.hset(key, "flush", 1)


def test_streams(narrow: ClusterWorld) -> None:
    """Their number is changed, and all of them are flushed."""
    narrow.send_many(30)
    narrow.flush()
    for parts in (2, 1):
        cut(narrow, parts)
        narrow.send_many(30)
        flush_all(narrow)
        narrow.assert_all_persisted()
