"""A worker on a real Redis Cluster whose messages carry the views: none counts twice, whatever nodes and slots do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any
from unittest.mock import patch

import pytest

from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.ingest.cluster_scripts import ClusterCountingScripts
from viewer_pipeline.ingest.segment_buffer import VOID, Cut
from viewer_pipeline.ingest.subscriber_scripts import LeaseLost, SubscribedElsewhere
from viewer_pipeline.layout import HOME_SLOT, key_slot
from viewer_pipeline.monitoring.health_rules import evaluate_subscriber
from viewer_pipeline.stores.cluster_nodes import ScriptCall
from viewer_pipeline_tests.support.claims import SOME_LEDGER, claim
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.cluster_workers import (
    SECONDS,
    WATCHED,
    announced,
    end_lease,
    publish,
    subscribers_at,
    viewers,
    wait_for_subscribers,
    worker_of,
)
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, limit_shards
from viewer_pipeline_tests.support.dying import Died
from viewer_pipeline_tests.support.subscribers import SubscriberThread
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX

SPACE = "test"
IDS = [f"vod{number}" for number in range(60)] + ["{vod}a", "{viewer}"]


@pytest.fixture
def world(cluster_world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> ClusterWorld:
    """An empty cluster and an empty ledger."""
    limit_shards(monkeypatch, [*IDS, *WATCHED])
    return cluster_world


def counting(world: ClusterWorld) -> SubscriberThread:
    """Return a worker's subscriber that counts messages."""
    return worker_of(world, "increment")


def publish_to_all(world: ClusterWorld, views: int = 2) -> None:
    """Publish views of each VOD, at each node in turn."""
    for vod_id, node in zip(IDS, cycle(world.cluster.responding()), strict=False):
        publish(world, vod_id, node, views)


def wait_until_counted(world: ClusterWorld) -> None:
    """Wait until all views that were sent are in the counters."""
    wait_until(lambda: Counter(world.counters()) == world.sent, SECONDS, "all views in the counters")


def settle_in(world: ClusterWorld, worker: SubscriberThread) -> None:
    """Wait until a worker counts what it receives: in the first second at a node it drops that."""
    before = world.sent.copy()

    def counts() -> bool:
        world.client.delete(PREFIX + "probe")
        world.cluster.responding()[0].client.publish("view_count_updates", b'{"vodId":"probe","count":1}')
        return bool(world.client.get(PREFIX + "probe"))

    wait_until(counts, SECONDS, "it counts")
    wait_until(lambda: not worker.subscriber.writer.buffer.view_count(), SECONDS, "nothing in memory")
    world.client.delete(PREFIX + "probe")
    world.sent = before


def test_messages_published_at_any_node_count_once(world: ClusterWorld) -> None:
    """Also at replicas, and for ids with a hash tag; a run of what was announced persists them."""
    with counting(world) as worker:
        publish_to_all(world)
        publish_to_all(world, 3)
        wait_until_counted(world)
        wait_until(lambda: len(announced(world)) == len(IDS), SECONDS, "announced")
        assert subscribers_at(world, world.cluster.node_of_slot(HOME_SLOT)) == 1
        world.flush("changed")
        world.assert_all_persisted()
        assert announced(world) == {}
        publish_to_all(world)
        wait_until(lambda: worker.stats.received == 3 * len(IDS), SECONDS, "sent on by the nodes")
    world.flush("changed")
    world.assert_all_persisted()
    assert worker.stats.losses == {}


def acquire(scripts: ClusterCountingScripts, node: str = "") -> None:
    """Let a worker that is subscribed at this node take the lease."""
    request = claim(SOME_LEDGER, SPACE, "token", "worker")
    for term in (0, 1):
        if scripts.acquire_or_renew_lease(replace(request, term=term, node=node), 60_000, 0).outcome == "acquired":
            return
    raise AssertionError


@pytest.fixture
def scripts(world: ClusterWorld) -> ClusterCountingScripts:
    """The scripts of a worker that has the lease."""
    assert isinstance(world.stores.redis, ClusterStore)
    made = ClusterCountingScripts(world.stores.redis, increment=True)
    acquire(made)
    return made


def test_cuts_name_the_one_before(world: ClusterWorld, scripts: ClusterCountingScripts) -> None:
    """Unless another node has published cuts less than a second before: then the first one after that second, too."""
    home, key = world.cluster.node_of_slot(HOME_SLOT), world.stores.redis.names.subscriber
    cuts = list[Cut]()

    def cut() -> Cut:
        scripts.publish_cut(SPACE, "token", 0)
        cuts.append(scripts.published)
        return scripts.published

    assert cut()._replace(number=0) == Cut(0, 0, 0, home.node_id())
    assert cut().previous == cuts[0].number
    world.client.hset(key, "node", "another")
    assert (cut().previous, cut().previous) == (VOID, VOID)
    since: Any = world.client.hget(key, "node_since")
    world.client.hset(key, "node_since", int(since) - 1_000_000)
    assert cut().previous == VOID
    assert cut().previous == cuts[-2].number
    world.client.hset(key, mapping={"node": "another", "cut": 5})  # the new node lacks the last writes
    assert cut().number > cuts[-2].number
    assert cut().number > cuts[-2].number


def test_a_worker_that_is_subscribed_elsewhere_is_refused(world: ClusterWorld, scripts: ClusterCountingScripts) -> None:
    """It may neither have the lease nor cut: its segments are others."""
    home = world.cluster.node_of_slot(HOME_SLOT)
    elsewhere = next(node for node in world.cluster.nodes if node is not home).node_id()
    scripts.publish_cut(SPACE, "token", 0, home.node_id())
    with pytest.raises(SubscribedElsewhere):
        scripts.publish_cut(SPACE, "token", 0, elsewhere)
    with pytest.raises(SubscribedElsewhere):
        acquire(scripts, elsewhere)


def test_counters_that_cannot_be_raised(world: ClusterWorld, scripts: ClusterCountingScripts) -> None:
    """They are returned with the reason, all others are raised."""
    world.client.set(PREFIX + "text", "x")
    folded = scripts.fold_segment("token", 7, Counter(text=1, a=2), 1)
    assert (folded.written, list(folded.refused)) == (True, ["text"])
    assert "not an integer" in folded.refused["text"]
    assert world.client.get(PREFIX + "a") == b"2"
    assert announced(world).keys() == {b"a"}


def test_a_segment_in_parts_is_folded_once(world: ClusterWorld, scripts: ClusterCountingScripts) -> None:
    """Also by a worker that has received less, so that it has fewer parts; and not for another ledger."""
    world.sent = Counter({f"{{same}}{number}": 1 for number in range(1200)})
    less = Counter(dict(list(world.sent.items())[:300]))
    assert scripts.fold_segment("token", 7, world.sent, 1).written
    for views in (less, world.sent):
        again = ClusterCountingScripts(scripts._cluster, increment=True)
        again._ledger = scripts._ledger
        assert not again.fold_segment("token", 7, views, 1).written
    wait_until_counted(world)
    world.client.hset(scripts._cluster.layout.marker_key(key_slot(b"{same}") + 1), "ledger", "another")
    with pytest.raises(LeaseLost):
        scripts.fold_segment("token", 8, less, 1)
    wait_until_counted(world)


def scripts_of(worker: SubscriberThread) -> ClusterCountingScripts:
    """Return the scripts of a worker."""
    scripts = worker.subscriber.writer.scripts
    assert isinstance(scripts, ClusterCountingScripts)
    return scripts


def die_half_way(worker: SubscriberThread) -> None:
    """Let a worker die once it has folded a segment in half of its shards, and repeat it to a quarter."""
    nodes: Any = scripts_of(worker)._cluster.nodes
    fold = nodes.run_script_following

    def fold_half(script: Any, calls: Sequence[ScriptCall], *tries: int) -> Any:
        fold(script, calls[: len(calls) // 2], *tries)
        fold(script, calls[: len(calls) // 4], *tries)
        raise Died

    nodes.run_script_following = fold_half


def test_another_worker_continues_a_segment(world: ClusterWorld) -> None:
    """The holder of the lease dies half-way: what it has folded is not folded again, and nothing is missed."""
    with counting(world) as first, counting(world) as second:
        settle_in(world, first)
        assert (first.state, second.state) == ("listening", "standby")
        die_half_way(first)
        publish_to_all(world)
        wait_until(lambda: not first.is_alive, SECONDS, "the first is dead")
        end_lease(world)
        wait_until_counted(world)
        wait_until(lambda: second.state == "listening", SECONDS, "the second has the lease")
        publish_to_all(world)
        wait_until_counted(world)
    world.flush("changed")
    world.assert_all_persisted()


def test_a_late_fold_of_a_worker_that_lost_the_lease(world: ClusterWorld) -> None:
    """The scripts of the shards know no lease: the number of the segment refuses it."""
    with counting(world) as worker:
        settle_in(world, worker)
        scripts = scripts_of(worker)
        with patch.object(scripts, "fold_segment", wraps=scripts.fold_segment) as fold:
            publish_to_all(world)
            wait_until_counted(world)
        for call in fold.call_args_list:
            late = ClusterCountingScripts(scripts._cluster, increment=True)
            late._ledger = scripts._ledger
            late._raise_counters(call.args[2], late._progress.__class__(call.args[1]))
        wait_until_counted(world)
        publish_to_all(world)
        wait_until_counted(world)


@pytest.mark.parametrize("fault", ["failover", "kill", "restart"])
def test_the_node_of_counters_fails(world: ClusterWorld, fault: str) -> None:
    """What could not be folded there is kept, in order, until it is back or its replica promoted, and counts once."""
    cluster = world.cluster
    home = cluster.node_of_slot(HOME_SLOT)
    other = next(node for node in cluster.primaries() if node is not home)
    with counting(world) as worker:
        settle_in(world, worker)
        publish_to_all(world)
        wait_until_counted(world)
        cluster.wait_until_replicated()
        if fault == "failover":
            with viewers(world, cluster.primaries(), counts=False):
                cluster.failover(other)
        else:
            other.kill()
            publish_to_all(world)
            wait_until(lambda: worker.stats.refusal_reason, SECONDS, "folds are refused")
            publish_to_all(world)
            check = evaluate_subscriber(worker.stats)
            assert (check.status, f" of 127.0.0.1:{other.port}" in check.message) == ("unhealthy", True), check.message
            wait_until(lambda: worker.stats.in_memory >= 2 * len(IDS), SECONDS, "all that was published since is kept")
            (cluster.restart if fault == "restart" else cluster.wait_for_promotion)(other)
        wait_until_counted(world)
        world.flush("changed")
    world.flush("sweep")
    world.assert_all_persisted()


def test_the_slot_of_a_counter_migrates(world: ClusterWorld) -> None:
    """Key by key: folds wait until the slot has moved, and each segment is folded once."""
    cluster, slot = world.cluster, key_slot(f"{PREFIX}vod1".encode())
    source = cluster.node_of_slot(slot)
    target = next(node for node in cluster.primaries() if node is not source)
    with counting(world) as worker:
        settle_in(world, worker)
        publish_to_all(world)
        wait_until_counted(world)
        migration = cluster.open_slot(slot, target)
        migration.move([f"{PREFIX}vod1"])
        publish_to_all(world)
        wait_until(lambda: worker.stats.refusal_reason, SECONDS, "folds are refused")
        migration.finish()
        wait_until_counted(world)


def assert_none_counted_twice(world: ClusterWorld) -> Counter[str]:
    """No VOD has more views than were sent. Return what is missing."""
    assert Counter(world.accounted()) <= world.sent
    return world.sent - world.accounted()


@pytest.mark.parametrize("fault", ["migrate", "failover", "kill"])
def test_the_home_slot_moves(world: ClusterWorld, fault: str) -> None:
    """Two workers move to the new node. Messages that were published meanwhile may be missed; none counts twice."""
    cluster = world.cluster
    home = cluster.node_of_slot(HOME_SLOT)
    with counting(world) as first, counting(world) as second:
        settle_in(world, first)
        with viewers(world, [node for node in cluster.primaries() if node is not home], counts=False):
            wait_until(lambda: len(world.sent) == 50, SECONDS, "viewers")
            target = _move_home(cluster, home, fault)
            wait_for_subscribers(world, target, 2)
        wait_until(lambda: "listening" in (first.state, second.state), SECONDS, "one has the lease")
        settle_in(world, first)
        missed = assert_none_counted_twice(world)
        publish_to_all(world)
        wait_until(lambda: world.sent - world.accounted() == missed, SECONDS, "counted again")
        assert_none_counted_twice(world)


def _move_home(cluster: RedisCluster, home: ClusterNode, fault: str) -> ClusterNode:
    if fault == "migrate":
        target = next(node for node in cluster.primaries() if node is not home)
        cluster.migrate_slot(HOME_SLOT, target)
        return target
    if fault == "failover":
        return cluster.failover(home)
    cluster.wait_until_replicated()
    getattr(home, fault)()
    return cluster.wait_for_promotion(home)
