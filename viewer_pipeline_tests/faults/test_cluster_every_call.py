"""A flush of a Redis Cluster that is killed or disturbed at every call that it makes.

`make test` tries every STRIDE-th call; VIEWER_TEST_CLUSTER_CALLS=all tries all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from viewer_pipeline.errors import TransientError
from viewer_pipeline.flush import cluster_store
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import Mode
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.layout import key_slot
from viewer_pipeline_tests.support.calls import (
    Call,
    Killer,
    client_of_threads,
    in_child,
    points_of_a_run,
    watched,
    watching,
)
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, limit_shards, opened
from viewer_pipeline_tests.support.world import PREFIX, World

VODS = [f"vod{number:04d}" for number in range(6)]
STRIDE = 1 if os.environ.get("VIEWER_TEST_CLUSTER_CALLS") == "all" else 8
IDLE = TransactionStatus.IDLE
EMPTIED = VODS[5]  # whose shard has lost its marker, but not views that were counted


class Scene:
    """A cluster and a ledger in a state that exercises every call, with a method to restore it."""

    def __init__(self, world: ClusterWorld) -> None:
        self.world = world
        for vod_id in VODS:
            world.send(vod_id, 2)
        world.flush()
        for vod_id in VODS:
            world.send(vod_id, 3)
        world.flush_unsettled()
        world.client.delete(world.stores.redis.layout.marker_key(world.stores.redis.layout.shards_of_ids([EMPTIED])[0]))
        for vod_id in VODS[1:]:
            world.send(vod_id, 4, announce=True)
        world.stores.redis.request_sweep("test")
        self._sent, self.totals = world.sent.copy(), world.totals()
        self._tables = [name for (name,) in world.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'viewer'")]
        world.execute("CREATE SCHEMA saved")
        for table in self._tables:
            world.execute(f"CREATE TABLE saved.{table} AS TABLE viewer.{table}")
        self.nodes = world.cluster.primaries()
        self._keys: list[dict[bytes, Any]] = [
            {key: node.client.dump(key) for key in node.client.scan_iter()} for node in self.nodes
        ]

    def restore(self) -> None:
        """Restore the state of all servers."""
        self.world.execute(
            "; ".join(f"DELETE FROM viewer.{t}; INSERT INTO viewer.{t} TABLE saved.{t}" for t in self._tables)
        )
        for number, node in enumerate(self.nodes):
            node.client.script_flush()
            self.fall_back(number)
        self.world.sent = self._sent.copy()

    def fall_back(self, number: int) -> None:
        """Let a node have the data that it had at the beginning, as a replica that lacks the last writes."""
        with self.nodes[number].client.pipeline(transaction=False) as pipe:
            pipe.flushall()
            for key, value in self._keys[number].items():
                pipe.restore(key, 0, value)
            pipe.execute()

    def assert_whole(self) -> None:
        """Every view is persisted once, and what was found again in the shard without a marker is held."""
        world = self.world
        assert world.counters() == {}
        assert Counter(world.totals()) <= world.sent <= Counter(world.totals()) + world.held()
        assert set(world.held()) <= {EMPTIED}


@pytest.fixture
def scene(redis_cluster: RedisCluster, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """The state, prepared. Only the shards of the test get markers, of 16384."""
    limit_shards(monkeypatch, [*VODS, "late"])
    monkeypatch.setattr(cluster_store, "DRAIN_COUNT", 2)
    with opened(redis_cluster, database_url) as world:
        yield Scene(world)


def run(stores: Stores, mode: Mode) -> None:
    """Run a whole flush, on connections of its own."""
    url = stores.redis.url
    with client_of_threads(url) as client, stores.ledger.keeping_connections() as ledger:
        own = Stores(ClusterStore(client, url, PREFIX), ledger)
        snapshot = drain(own, World.request(mode))
        bulk_upsert(own, snapshot, aggregate(snapshot.readings))


@pytest.mark.parametrize("mode", ["sweep", "changed"])
def test_a_flush_is_killed_at_every_call(
    scene: Scene, mode: Mode, tmp_path: Path, add_to_summary: Callable[[str], None]
) -> None:
    """Wherever it dies, the next flush completes every count, and no total ever falls or is too high."""
    world = scene.world
    scene.restore()
    points = points_of_a_run(partial(run, world.stores, mode), tmp_path)
    world.flush()
    scene.assert_whole()
    tried = points[:: STRIDE if mode == "sweep" or STRIDE == 1 else 2 * STRIDE]  # most calls are those of a sweep
    for point in tried:
        scene.restore()
        assert in_child(watched(Killer(point), partial(run, world.stores, mode)), tmp_path / "report") == -9, point
        try:
            world.send("late", 1, announce=True)
            assert world.flush().notes.drift == 0
            scene.assert_whole()
        except AssertionError as error:
            error.add_note(f"killed: {point}")
            raise
    add_to_summary(f"cluster, {mode}: killed at {len(tried)} of {len(points)} points")
    assert {"postgres COMMIT", "postgres insert_flush", "postgres read_batches_of_shards_after"} <= {
        p.call for p in points
    }


def flush(scene: Scene, _: Disturber) -> None:
    """Another run flushes."""
    scene.world.send("late", 1, announce=True)
    scene.world.flush()


def fall_back_and_flush(scene: Scene, _: Disturber) -> None:
    """A node falls back to an older state, and another run settles it again before this one continues."""
    scene.fall_back(0)
    scene.world.flush()


def fall_back(scene: Scene, _: Disturber) -> None:
    """All nodes fall back to an older state."""
    for number in range(len(scene.nodes)):
        scene.fall_back(number)


def migrate(scene: Scene, disturber: Disturber) -> None:
    """A slot is given to another node, by the way of half its keys."""
    cluster, slot = scene.world.cluster, key_slot((PREFIX + VODS[0]).encode())
    target = next(node for node in scene.nodes if node is not cluster.node_of_slot(slot))
    disturber.undo = lambda: cluster.migrate_slot(slot, source)
    source = cluster.node_of_slot(slot)
    cluster.migrate_slot(slot, target)


class Disturber:
    """Makes every call, and before one of them does something else."""

    def __init__(self, at: int, scene: Scene, event: Callable[[Scene, Disturber], None]) -> None:
        self.at, self.scene, self.event = at, scene, event
        self.calls, self.active = 0, False
        self.after_read, self._has_read = set[int](), False  # calls that follow a read of shards
        self.undo: Callable[[], None] = lambda: None

    def __call__(self, call: Call) -> Any:
        """Make the call."""
        if not self.active and not call.private and not is_in_transaction(call):
            self.calls += 1
            if self._has_read:
                self.after_read.add(self.calls)
            self._has_read = "EVALSHA drain" in call.name
            if self.calls == self.at:
                self.active = True
                try:
                    self.event(self.scene, self)
                finally:
                    self.active = False
        return call.run()


def is_in_transaction(call: Call) -> bool:
    """Whether another flush would wait until this call was made."""
    return isinstance(call.connection, psycopg.Connection) and call.connection.info.transaction_status != IDLE


@pytest.mark.parametrize("event", [flush, fall_back_and_flush, fall_back, migrate])
def test_a_flush_is_disturbed_at_every_call(
    scene: Scene, event: Callable[[Scene, Disturber], None], add_to_summary: Callable[[str], None]
) -> None:
    """Whenever it happens, each view is counted once. Tried at every call that follows a read of shards (rule R12)."""
    undisturbed = Disturber(0, scene, event)
    scene.restore()
    with watching(undisturbed):
        run(scene.world.stores, "sweep")
    tried = sorted({*range(1, undisturbed.calls + 1, STRIDE), *undisturbed.after_read})
    for at in tried:
        scene.restore()
        disturber = Disturber(at, scene, event)
        try:
            with watching(disturber), suppress(TransientError):
                run(scene.world.stores, "sweep")
            scene.world.send("vod0001", 10, announce=True)
            scene.world.flush()
            scene.world.flush()
            scene.assert_whole()
        except AssertionError as error:
            error.add_note(f"{event.__name__} before call {at}")
            raise
        disturber.undo()
    add_to_summary(f"cluster, {event.__name__}: disturbed at {len(tried)} of {undisturbed.calls} calls")
