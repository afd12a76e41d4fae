"""A shard of a Redis Cluster loses its marker twice while one run reads it: each marker has its own epoch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from hashlib import sha1
from typing import Any

import pytest
import redis

from viewer_pipeline.flush import cluster_store, commit
from viewer_pipeline.flush.cluster_store import DRAIN, DRAIN_EACH, DRAIN_GROUPED, ClusterStore, as_cluster
from viewer_pipeline.flush.ledger_reads import last_flush
from viewer_pipeline.flush.ledger_row_types import Flush, LastFlush
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.shard_settle import ShardSettler
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.layout import Layout
from viewer_pipeline.stores import grouped_scripts
from viewer_pipeline.stores.cluster_nodes import ClusterNodes, ScriptCall
from viewer_pipeline.stores.redis import Script
from viewer_pipeline.streams import WHOLE
from viewer_pipeline_tests.support.cluster_world import ClusterWorld

FIRST, SECOND = "1{shard}", "2{shard}"  # two VODs of one shard
SECONDS = 30


class OtherRun:
    """Another run, whose flush is settled between the last read of the first run and its commit."""

    def __init__(self, world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        self._world, self._run = world, Future[RunReport]()
        self._has_begun, self._has_committed, self._may_settle = False, threading.Event(), threading.Event()
        settle, commit_all = ShardSettler._settle, commit._commit_and_settle

        def settle_later(settler: ShardSettler, flush: Flush) -> None:
            if flush.run_id == "other":
                self._has_committed.set()
                assert self._may_settle.wait(SECONDS)
            settle(settler, flush)

        def commit_later(stores: Stores, connection: Any, snapshot: Snapshot, *arguments: Any) -> Any:
            if snapshot.request.run_id == "first":
                self._may_settle.set()
                self._run.result(SECONDS)
            return commit_all(stores, connection, snapshot, *arguments)

        monkeypatch.setattr(ShardSettler, "_settle", settle_later)
        monkeypatch.setattr(commit, "_commit_and_settle", commit_later)

    def commit(self) -> None:
        """Commit its flush. Then the shard is emptied, and new views come in. Does nothing the second time."""
        if self._has_begun:
            return
        self._has_begun, self._run = True, self._world.in_thread(run_id="other")
        assert self._has_committed.wait(SECONDS)
        layout = as_cluster(self._world.stores.redis).layout
        (shard,) = set(layout.shards_of_ids([FIRST, SECOND]))
        for key in (layout.marker_key(shard), self._world.prefix + FIRST, self._world.prefix + SECOND):
            self._world.client.delete(key)
        self._world.send(FIRST, 3)
        self._world.send(SECOND, 3)


@pytest.fixture
def world(cluster_world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> ClusterWorld:
    """A world with views in one shard, the only one that gets a marker; a call reads one counter."""
    monkeypatch.setattr(cluster_store, "DRAIN_COUNT", 1)
    shards = as_cluster(cluster_world.stores.redis).layout.shards_of_ids([FIRST])
    monkeypatch.setattr(Layout, "shards", shards)
    cluster_world.send(FIRST, 5)
    cluster_world.send(SECOND, 5)
    return cluster_world


def assert_whole(world: ClusterWorld) -> None:
    """Both what the other run had committed, and what came in after the shard was emptied, is counted."""
    world.flush()
    world.assert_all_persisted()


def test_after_a_run_has_made_all_markers(world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes the marker again when it reads the counters."""
    other = OtherRun(world, monkeypatch)
    begin = ClusterStore.changed_set_size_and_oldest

    def disturbed(store: ClusterStore) -> Any:
        other.commit()
        return begin(store)

    monkeypatch.setattr(ClusterStore, "changed_set_size_and_oldest", disturbed)
    world.flush(run_id="first")
    assert_whole(world)


def test_between_two_calls_that_read_one_shard(world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call makes the marker, and the second one makes it again."""
    other = OtherRun(world, monkeypatch)
    run_script, reads = ClusterNodes.run_script, list[ScriptCall]()
    monkeypatch.setattr(grouped_scripts, "GROUP_WORDS", 1)

    def disturbed(nodes: ClusterNodes, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        replies = list[Any]()
        for call in calls:
            if script is DRAIN_EACH and any(isinstance(word, bytes) for word in call.arguments):  # a counter
                reads.append(call)
                if len(reads) == 2:  # of either VOD: SCAN has no order
                    other.commit()
            replies += run_script(nodes, script, [call])
        return replies

    prepare(world)
    monkeypatch.setattr(ClusterNodes, "run_script", disturbed)
    world.flush(run_id="first")
    assert_whole(world)


def test_between_a_group_and_a_call_by_itself(world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group makes the marker and fails; then the shard is read by itself, and the marker is made again."""
    monkeypatch.setattr(cluster_store, "DRAIN_COUNT", 2)
    source = DRAIN_EACH.source.replace("\nreturn replies\n", "\nerror('after all shards')\n")
    failing = DRAIN_GROUPED._replace(each=Script(source, sha1(source.encode()).hexdigest()))
    monkeypatch.setattr(cluster_store, "DRAIN_GROUPED", failing)
    other, run_script, failed = OtherRun(world, monkeypatch), ClusterNodes.run_script, list[str]()

    def disturbed(nodes: ClusterNodes, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        if script is DRAIN and any(len(call.keys) > 1 for call in calls):
            other.commit()
        replies = run_script(nodes, script, calls)
        failed.extend(str(reply) for reply in replies if isinstance(reply, redis.ResponseError))
        return replies

    prepare(world)
    monkeypatch.setattr(ClusterNodes, "run_script", disturbed)
    world.flush(run_id="first")
    assert len(failed) == 1
    assert "after all shards" in failed[0]
    assert_whole(world)


def prepare(world: ClusterWorld) -> None:
    """Let the cluster be as if all markers had been made, and that of the shard was lost since."""
    with world.stores.ledger.connect() as connection:
        last: LastFlush = last_flush(connection, WHOLE)
    world.stores.redis.begin("before", last, world.identity)
    as_cluster(world.stores.redis).set_prepared(last.timeline, 0)
