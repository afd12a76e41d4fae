"""What /health, status, metrics and doctor say of a Redis Cluster: of each node, and of the shards that are behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from threading import Thread
from threading import enumerate as enumerate_threads
from typing import Any, NoReturn

import pytest

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.errors import RedisUnavailable
from viewer_pipeline.flush.cluster_store import as_cluster
from viewer_pipeline.flush.ledger_reads import last_flush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.unsettled import SAMPLE, UnsettledReader
from viewer_pipeline.layout import HOME_SLOT
from viewer_pipeline.monitoring.doctor.guarantee import derive_guarantee
from viewer_pipeline.monitoring.doctor.run_checks import run_doctor_checks
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.monitoring.status import StatusReader, read_status
from viewer_pipeline.monitoring.status_report import render_status
from viewer_pipeline.settings import Settings
from viewer_pipeline.streams import WHOLE
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, opened
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until

VODS = 30
CHANNEL = "view_count_updates"
pytestmark = pytest.mark.usefixtures("enough_time_for_status")


@pytest.fixture
def world(redis_cluster: RedisCluster, dagster_settings: Settings) -> Iterator[ClusterWorld]:
    """An empty cluster and an empty ledger."""
    with opened(redis_cluster, dagster_settings.require_database_url()) as world:
        yield world


@pytest.fixture
def settings(world: ClusterWorld, dagster_settings: Settings) -> Settings:
    """Settings of both servers."""
    return dagster_settings.copy_unvalidated(redis_url=world.stores.redis.url)


@pytest.fixture
def probes(settings: Settings) -> Iterator[HealthProbes]:
    """The probes of /health."""
    with closing(HealthProbes(settings)) as probes:
        yield probes


def node_without_home(world: ClusterWorld) -> ClusterNode:
    """Return a primary that has counters only."""
    home = world.cluster.node_of_slot(HOME_SLOT)
    return next(node for node in world.cluster.primaries() if node is not home)


def test_a_cluster_that_is_well(world: ClusterWorld, settings: Settings) -> None:
    """Doctor and status find nothing wrong with it, and derive what a failover of a primary costs."""
    settings = settings.copy_unvalidated(redis_wait_replicas=1)
    for node in world.cluster.nodes:
        node.client.config_set("appendfsync", "everysec")
    world.send_many(VODS)
    world.flush()
    world.send("vod0001", 3, announce=True)
    results = list[CheckResult]()

    def redis_is_well() -> bool:
        results[:] = run_doctor_checks(settings)
        return by_name(results)["redis"].status == "healthy"

    wait_until(redis_is_well, 60, "Redis is well")  # on a busy machine, not at once
    by_check = by_name(results)
    about_redis = ("redis", "redis_memory", "marker", "unsettled", "held", "clone_detection", "clock", "keyspace")
    assert {name: by_check[name].status for name in about_redis} == dict.fromkeys(about_redis, "healthy")
    slow = tuple(f"redis_{name}" for name in ("version", "commands", "cluster", "durability", "persistence"))
    assert [f"{name}: {by_check[name].message}" for name in slow if not by_check[name].passed] == []
    assert by_check["redis_cluster"].message.endswith("cluster mode is on")
    assert by_check["redis_latency"].status in ("healthy", "degraded")  # a busy machine is slow
    assert by_check["redis_durability"].details["connected_replicas"] == 1
    assert by_check["keyspace"].message.startswith("16")
    faults = {fault.name: fault for fault in derive_guarantee(results, settings)}
    assert faults["redis_crash"].reason.startswith("with appendfsync everysec")
    assert faults["redis_failover_counted"].holds == "exact"
    without = settings.copy_unvalidated(redis_wait_replicas=0)
    node_without_home(world).client.config_set("appendfsync", "no")
    faults = {fault.name: fault for fault in derive_guarantee(run_doctor_checks(without), without)}
    assert faults["redis_crash"].reason.startswith("with appendfsync no")
    assert faults["redis_failover_counted"].holds == "not exact"
    status = read_status(settings)
    assert (status.is_last_flush_settled, status.failures) == (True, {})
    assert status.to_dict()["pending_views"] == 3
    assert status.to_dict()["marker"] == {"seq": 8}
    text = render_status(status, 200)
    assert "one for each slot of the cluster; the ledger's last flush is 8" in text


def test_shards_that_are_behind(world: ClusterWorld, probes: HealthProbes) -> None:
    """Their number is in /health and status, until they are settled; a run that died left them."""
    world.send_many(VODS)
    world.flush_unsettled()
    world.execute("UPDATE viewer.flush SET committed_at = now() - interval '2 minutes'")
    for _ in range(2):
        unsettled = by_name(probes.check_settling())["unsettled"]
        assert (unsettled.status, unsettled.details["unsettled_shards"]) == ("degraded", VODS)
        assert unsettled.message.startswith(
            f"8 flushes committed and not settled in {VODS} shards, the oldest for 2 min"
        )
    status = read_status(probes.settings)
    assert status.is_last_flush_settled is False
    assert f"the ledger's last flush is 8 (not settled in {VODS} shards)" in render_status(status, 200)
    world.flush()
    unsettled = by_name(probes.check_settling())["unsettled"]
    assert (unsettled.status, unsettled.details["unsettled_shards"]) == ("healthy", 0)


def test_status_waits_for_all_markers(world: ClusterWorld, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them takes longer than another check may, and more so on a busy machine, though no server hangs."""
    monkeypatch.setattr(f"{StatusReader.__module__}.STATUS_SECONDS", 0.05)
    monkeypatch.setattr(f"{StatusReader.__module__}.MARKERS_SECONDS", 120.0)
    world.send_many(VODS)
    world.flush()
    with StatusReader.open(settings) as reader:
        checks = reader.read().checks
        probing = [thread for thread in enumerate_threads() if thread.name.startswith("probe ")]
        for thread in probing:  # those that had no time
            thread.join(ENOUGH)
    assert [checks[name].status for name in ("marker", "unsettled", "incidents")] == ["healthy"] * 3


def test_status_without_the_markers(world: ClusterWorld, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether all is settled is unknown where they could not be read."""

    def read_markers(_: HealthProbes) -> NoReturn:
        raise RedisUnavailable("a node does not answer")

    world.send_many(VODS)
    world.flush()
    monkeypatch.setattr(HealthProbes, "check_settling", read_markers)
    status = read_status(settings)
    assert not status.checks["unsettled"].passed
    assert status.to_dict()["settled"] is None
    line = "marker     unknown; the ledger's last flush is 8; Redis does not answer: a node does not answer"
    assert line in render_status(status, 200)


def test_most_checks_read_few_markers(world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at first, then a sample of the last flush, and what was behind; it finds what that flush left."""
    store, read = as_cluster(world.stores.redis), list[int]()

    def count(shards: Any) -> dict[int, Marker]:
        wanted = list(shards)
        read.append(len(wanted))
        return original(wanted)

    original = store.readable_markers
    monkeypatch.setattr(store, "readable_markers", count)
    reader = UnsettledReader()

    def behind() -> int | None:
        with world.stores.ledger.connect() as connection:
            return reader.read(store, connection, store.marker(), last_flush(connection, WHOLE)).shards

    assert behind() == 0
    world.send_many(2 * SAMPLE, 1)
    world.flush_unsettled(flush_max_counters=10_000, batch_size=10_000)
    unsettled = behind()
    assert unsettled is not None
    assert SAMPLE / 4 < unsettled <= SAMPLE
    world.flush()
    assert behind() == 0
    assert read[0] == 16384
    assert all(number <= 2 * SAMPLE for number in read[1:])


def test_a_silent_node(world: ClusterWorld, probes: HealthProbes) -> None:
    """It is named; the checks heal with it."""
    down = node_without_home(world)
    assert by_name(probes.check_redis())["redis"].passed
    down.pause()
    result = by_name(probes.check_redis())["redis"]
    down.resume()
    assert result.status == "unhealthy"
    assert f"1 of 3 nodes; 127.0.0.1:{down.port}: does not answer" in result.message
    assert "CLUSTER FAILOVER" in result.remedy
    wait_until(lambda: by_name(probes.check_redis())["redis"].passed, 30, "it healed")


def test_slots_that_no_node_serves(world: ClusterWorld, probes: HealthProbes) -> None:
    """They are counted."""
    for node in world.cluster.nodes:
        node.command("CLUSTER", "DELSLOTS", HOME_SLOT + 1, HOME_SLOT + 2)
    probes.store.leave_server()
    result = by_name(probes.check_redis())["redis"]
    assert (result.status, result.details["unserved_slots"]) == ("unhealthy", 2)
    assert "no node serves 2 of 16384 slots" in result.message


def test_memory_of_one_node(world: ClusterWorld, probes: HealthProbes) -> None:
    """Eviction at one node is reported, and that one node refuses writes."""
    node = node_without_home(world)
    node.client.config_set("maxmemory-policy", "allkeys-lru")
    memory = by_name(probes.check_redis())["redis_memory"]
    assert memory.status == "degraded"
    assert memory.message.startswith(f"1 of 3 nodes; 127.0.0.1:{node.port}: maxmemory-policy allkeys-lru evicts")
    node.client.config_set("maxmemory-policy", "noeviction")
    node.client.config_set("maxmemory", 1)
    refused = by_name(probes.check_redis())["redis"]
    node.client.config_set("maxmemory", 0)
    assert refused.status == "unhealthy"
    assert "OOM" in refused.message or "used memory > 'maxmemory'" in refused.message


def test_a_url_of_one_node(world: ClusterWorld, settings: Settings) -> None:
    """The remedy is the other scheme, for whichever check meets it first."""
    wrong = settings.copy_unvalidated(redis_url=node_without_home(world).url)
    with closing(HealthProbes(wrong)) as probes:
        result = by_name(probes.check_redis())["redis"]
    assert result.status == "unhealthy"
    assert "this Redis is in cluster mode" in result.message
    assert "redis+cluster://" in result.remedy


def test_subscribers_at_any_node(world: ClusterWorld, probes: HealthProbes) -> None:
    """Each node knows its own only."""
    make: Any = node_without_home(world).client.pubsub
    with closing(make()) as subscriber:
        subscriber.subscribe(CHANNEL)
        subscriber.get_message(timeout=ENOUGH)
        assert probes.store.subscriber_counts(CHANNEL, "other") == [1, 0]


def test_producers_at_any_node(world: ClusterWorld, settings: Settings) -> None:
    """MONITOR at each node shows whether they raise counters as well as publish."""
    stop, nodes = list[bool](), world.cluster.primaries()

    def produce() -> None:
        number = 0
        while not stop:
            number += 1
            world.client.incrby(f"vod:views:vod{number % VODS}", 1)
            message = json.dumps({"vodId": f"vod{number % VODS}", "increment": 1})
            nodes[number % len(nodes)].client.publish(CHANNEL, message)

    producer = Thread(target=produce)
    producer.start()
    try:
        announce = settings.copy_unvalidated(pubsub_mode="announce")
        wait_until(  # a slow producer publishes too few in a second
            lambda: by_name(run_doctor_checks(announce, watch_producers_seconds=1))["pubsub_mode"].status == "healthy",
            30,
            "both are seen",
        )
    finally:
        stop.append(True)
        producer.join()
