"""The Redis Cluster that tests run on: its nodes, slots and failovers are real, and `reset` undoes what a test did."""

from __future__ import annotations

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import MovedError

from viewer_pipeline_tests.support.cluster import PRIMARIES, SLOTS, RedisCluster
from viewer_pipeline_tests.support.waiting import wait_until

PREFIX = "vod:views:"
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


def test_a_failover_loses_nothing(redis_cluster: RedisCluster) -> None:
    """The replica has all counters and the slots; the old primary replicates it."""
    write_counters(redis_cluster)
    old = redis_cluster.nodes[0]
    new = redis_cluster.failover(old)
    assert redis_cluster.node_of_slot(0) is new
    assert redis_cluster.replica_of(new) is old
    assert redis_cluster.counters(PREFIX) == COUNTERS


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


def test_reset_undoes_everything(redis_cluster: RedisCluster) -> None:
    """A failover, a killed and a paused node, a setting, and counters."""
    write_counters(redis_cluster)
    redis_cluster.failover(redis_cluster.nodes[0])
    redis_cluster.kill(redis_cluster.nodes[4])
    redis_cluster.nodes[2].client.config_set("maxmemory", "100mb")
    redis_cluster.nodes[2].pause()
    redis_cluster.reset()
    assert redis_cluster.primaries() == redis_cluster.nodes[:PRIMARIES]
    assert redis_cluster.key_count() == 0
    assert redis_cluster.nodes[2].client.config_get("maxmemory") == {"maxmemory": "0"}
    write_counters(redis_cluster)
    assert redis_cluster.counters(PREFIX) == COUNTERS
