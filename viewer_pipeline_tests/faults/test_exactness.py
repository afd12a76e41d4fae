"""Interleavings of lease, cut, fold and loss that would count a view twice, or lose one that a standby has."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import orjson
import pytest

from viewer_pipeline.errors import RedisUnavailable
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.ingest import subscriber as subscriber_module
from viewer_pipeline.ingest.lease import LEASE_MS, LEASE_SECONDS
from viewer_pipeline.ingest.reject_recorder import RejectRecorder
from viewer_pipeline.ingest.segment_buffer import Segment
from viewer_pipeline.ingest.subscriber import Subscriber
from viewer_pipeline.ingest.subscriber_scripts import LeaseResult, SubscriberScripts, split_by_id_hash
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.ingest.subscription import Subscription
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.claims import claim
from viewer_pipeline_tests.support.subscribers import CHANNEL, SubscriberThread
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

SUBSCRIBER = "viewer:subscriber"
HOUR_MS = 3_600_000
LARGE = Counter({f"v{n:04d}": n + 1 for n in range(1200)})  # three parts


@pytest.fixture
def settings(redis_url: str, database_url: str) -> Settings:
    """Settings of both servers."""
    return Settings(database_url=database_url, redis_url=redis_url)


@pytest.fixture
def folds(world: World) -> SubscriberScripts:
    """What the test itself cuts and folds with."""
    return SubscriberScripts(world.stores.redis, increment=True)


Make = Callable[[], Subscriber]


@pytest.fixture
def make(settings: Settings) -> Iterator[Make]:
    """Return a function that makes a subscriber that does nothing by itself; the test calls its steps."""
    with ExitStack() as stack:

        def subscriber() -> Subscriber:
            made = Subscriber(settings, RejectRecorder(Ledger(settings.require_database_url())), SubscriberStats())
            made.writer.key_space = made.writer.scripts.read_or_create_key_space_id()
            made.writer.ledger.start(30)
            stack.callback(made.writer.ledger.request_stop)
            return made

        yield subscriber


def subscribed(subscriber: Subscriber) -> Subscription:
    """Subscribe as this subscriber does."""
    subscription = subscriber._prepare_subscription()
    subscription.open()
    return subscription


def message(vod_id: str) -> bytes:
    """Return the message of one view."""
    return orjson.dumps({"vodId": vod_id, "count": 1})


def expire(world: World) -> None:
    """Expire the lease now."""
    seconds, microseconds = world.client.time()
    world.client.hset(SUBSCRIBER, "expires", seconds * 1000 + microseconds // 1000)


def hold(world: World, folds: SubscriberScripts, token: str) -> None:
    """Hold the lease as a subscriber that cuts and folds only when the test does."""
    ledger = world.identity.key
    until = int(time.time() * 1000) + 9 * LEASE_MS
    world.client.hset(SUBSCRIBER, mapping={"holder": token, "expires": until, "ledger": ledger})
    folds._ledger = ledger
    world.client.hincrby(SUBSCRIBER, "term", 1)
    assert folds.publish_cut(folds.read_or_create_key_space_id(), token, 0) > 0


def test_begun_segment_closes_older_segments(folds: SubscriberScripts, world: World) -> None:
    """Another worker has an older segment that the holder lacked: folding it must not restart the newer one."""
    space = folds.read_or_create_key_space_id()
    hold(world, folds, "a")
    older = folds.publish_cut(space, "a", 0)
    newer = folds.publish_cut(space, "a", 0)
    assert folds._fold_part("a", newer, 1, split_by_id_hash(LARGE, 3), 1) == [1]
    hold(world, folds, "b")
    assert not folds.fold_segment("b", older, Counter(v0000=5), 1).written
    folds.fold_segment("b", newer, LARGE, 1)
    counters = world.counters()
    assert all(counters[vod_id] <= views for vod_id, views in LARGE.items())


def test_leave_after_a_fold_without_a_reply(make: Make, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views that may be folded under their number are not folded again under another one."""
    leaving = make()
    folder = leaving.writer
    folder.acquire_or_renew_lease()
    number = folder.scripts.publish_cut(folder.key_space, folder.lease.fencing_token, 0)
    folder.buffer.cut_open_segment(number, 0)
    folder.buffer.segments.append(
        Segment(folder.scripts.publish_cut(folder.key_space, folder.lease.fencing_token, 0), LARGE)
    )
    folder.buffer.last_cut = number + 1
    whole = folder.scripts.fold_segment

    def fold_without_reply(*arguments: Any) -> Any:
        whole(*arguments)
        raise RedisUnavailable("Timeout reading from socket")

    with monkeypatch.context() as patch:
        patch.setattr(folder.scripts, "fold_segment", fold_without_reply)
        assert not folder.try_to_fold_and_cut()
    assert world.counters() == dict(LARGE)
    folder.buffer.open_views.update(late=1)
    assert leaving._shutdown.fold_rest_and_release_lease() == 0
    assert world.counters() == dict(LARGE) | {"late": 1}


def test_leave_with_a_broken_connection(settings: Settings, make: Make, world: World) -> None:
    """A standby has all that the leaving worker missed: it folds that, and nothing twice."""
    leaving = make()
    folder = leaving.writer
    folder.acquire_or_renew_lease()
    with SubscriberThread(settings) as standby:
        number = folder.scripts.publish_cut(folder.key_space, folder.lease.fencing_token, 0)
        folder.buffer.cut_open_segment(number, 0)
        world.client.publish(CHANNEL, message("both"))
        folder.buffer.open_views.update(both=1)
        folder.buffer.close_segment_of_lost_connection(is_holder=True)
        world.client.publish(CHANNEL, message("standby only"))
        wait_until(lambda: standby.stats.received == 2, 20, "both messages received")
        assert leaving._shutdown.fold_rest_and_release_lease() == 0
        wait_until(lambda: standby.stats.state == "listening", 20, "the standby to take over")
    assert world.counters() == {"both": 1, "standby only": 1}


def test_late_worker_leaves_the_lease_to_a_complete_standby(
    settings: Settings, folds: SubscriberScripts, world: World
) -> None:
    """A killed holder that is started again comes first; only the standby has the messages published meanwhile."""
    hold(world, folds, "killed")
    with SubscriberThread(settings) as standby:
        for _ in range(2):  # the standby is whole once a segment that began after it came was folded
            number = folds.publish_cut(folds.read_or_create_key_space_id(), "killed", 0)
            folds.fold_segment("killed", number, Counter(before=1), 1)
        world.client.publish(CHANNEL, message("meanwhile"))
        wait_until(lambda: standby.stats.received == 1, 20, "the message received")
        standby.subscriber.writer.lease._due = time.monotonic() + LEASE_SECONDS
        expire(world)
        with SubscriberThread(settings) as late:
            wait_until(lambda: standby.stats.state == "listening", 20, "the standby to take over")
            assert late.stats.state == "standby"
            world.client.publish(CHANNEL, message("after"))
            wait_until(lambda: "after" in world.counters(), 20, "the last message")
    assert world.counters() == {"before": 2, "meanwhile": 1, "after": 1}


def test_late_worker_without_others_takes_over(settings: Settings, folds: SubscriberScripts, world: World) -> None:
    """No other worker is subscribed: there is nothing to wait for."""
    hold(world, folds, "killed")
    expire(world)
    with SubscriberThread(settings) as late:
        assert late.stats.state == "listening"
        world.client.publish(CHANNEL, message("a"))
    assert world.counters() == {"a": 1}


def test_standby_notices_another_key_space(settings: Settings, folds: SubscriberScripts, world: World) -> None:
    """Redis was emptied and another worker created its id: segments it folded are not folded again."""
    hold(world, folds, "old")
    world.client.hset(SUBSCRIBER, "cut", 1000)
    with SubscriberThread(settings) as standby:
        folds.publish_cut(folds.read_or_create_key_space_id(), "old", 0)
        world.client.publish(CHANNEL, message("before"))
        wait_until(lambda: standby.stats.received == 1, 20, "the first message")
        world.client.flushall()
        world.client.hset(SUBSCRIBER, mapping={"id": "new", "format": 2})
        hold(world, folds, "new")
        world.client.publish(CHANNEL, message("m"))
        folds.fold_segment("new", folds.publish_cut("new", "new", 0), Counter(m=1), 1)
        wait_until(lambda: world.client.pubsub_numsub("viewer:cuts:new")[0][1] == 1, 20, "a subscription to its cuts")
        expire(world)
        wait_until(lambda: standby.stats.state == "listening", 20, "the standby to take over")
        world.client.publish(CHANNEL, message("after"))
        wait_until(lambda: "after" in world.counters(), 20, "the last message")
    assert world.counters() == {"m": 1, "after": 1}


def test_lease_lost_and_acquired_without_a_reply(
    make: Make, world: World, folds: SubscriberScripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis receives the attempt twice, and the second reply is `renewed`: another worker held it in between."""
    held = make()
    held.writer.acquire_or_renew_lease()
    held.writer.buffer.unsequenced.update(a=1)
    expire(world)
    hold(world, folds, "other")
    folds.fold_segment("other", folds.publish_cut(folds.read_or_create_key_space_id(), "other", 0), Counter(a=1), 1)
    world.client.hdel(SUBSCRIBER, "holder", "expires", "worker")
    once = held.writer.scripts.acquire_or_renew_lease

    def sent_twice(*arguments: Any) -> LeaseResult:
        once(*arguments)
        return once(*arguments)

    monkeypatch.setattr(held.writer.scripts, "acquire_or_renew_lease", sent_twice)
    held.writer.acquire_or_renew_lease()
    assert held.writer.lease.held
    assert held.writer.buffer.view_count() == 0
    assert held._stats.takeovers == 2


def test_holder_without_numbers_hands_over(settings: Settings, make: Make, world: World) -> None:
    """It lost its connection again before a cut: a standby has received more than the holder kept."""
    holder = make()
    holder.writer.acquire_or_renew_lease()
    holder.writer.buffer.unsequenced.update(a=1)
    with SubscriberThread(settings) as standby:
        for vod_id in ("a", "b"):
            world.client.publish(CHANNEL, message(vod_id))
        wait_until(lambda: standby.stats.received == 2, 20, "both messages received")
        subscribed(holder).close()
        wait_until(lambda: standby.stats.state == "listening", 20, "the standby to take over")
    assert world.counters() == {"a": 1, "b": 1}
    assert holder.writer.buffer.view_count() == 0


def test_many_ids_between_two_cuts(settings: Settings, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than MAX_IDS wait in front of the next cut: the holder must read on to reach it."""
    monkeypatch.setattr(subscriber_module, "MAX_IDS", 500)
    with SubscriberThread(settings) as made, world.client.pipeline(transaction=False) as pipeline:
        for number in range(20_000):
            pipeline.publish(CHANNEL, message(f"v{number}"))
        pipeline.execute()
        wait_until(lambda: made.stats.folded_views == 20_000, 30, "all folded")
    assert world.counters() == {f"v{n}": 1 for n in range(20_000)}


def test_stop_waits_for_the_lease_of_a_dead_holder(settings: Settings, folds: SubscriberScripts, world: World) -> None:
    """No other worker has received what the dead one did not fold: the stop folds it."""
    space = folds.read_or_create_key_space_id()
    assert (
        folds.acquire_or_renew_lease(claim(world.identity, space, "ghost", "dead"), LEASE_MS, 0).outcome == "acquired"
    )
    with SubscriberThread(settings) as standby:
        world.client.publish(CHANNEL, message("a"))
        wait_until(lambda: standby.stats.received == 1, 30, "received")
        assert standby.stats.state == "standby"
        assert world.counters() == {}
    assert world.counters() == {"a": 1}


def test_lease_of_a_clock_set_back_is_over(folds: SubscriberScripts, world: World) -> None:
    """A lease that ends later than any lease can is over."""
    space = folds.read_or_create_key_space_id()
    assert (
        folds.acquire_or_renew_lease(claim(world.identity, space, "before", "host"), LEASE_MS, 0).outcome == "acquired"
    )
    world.client.hset(SUBSCRIBER, "expires", int(time.time() * 1000) + HOUR_MS)
    assert (
        folds.acquire_or_renew_lease(claim(world.identity, space, "after", "host", term=1), LEASE_MS, 0).outcome
        == "acquired"
    )


def receive_until(made: Subscriber, subscription: Subscription, condition: Callable[[], object]) -> None:
    """Read message by message, so that what comes behind is still on its way."""

    def received() -> object:
        made.writer.receiver.buffer_messages(subscription.read_messages(0.05))
        return condition()

    wait_until(received, 20, "what was published")


def test_views_that_an_earlier_holder_may_have_folded_are_dropped(
    make: Make, folds: SubscriberScripts, world: World
) -> None:
    """A connection older than the lease breaks while the earlier holder's cut is on its way."""
    hold(world, folds, "other")
    made = make()
    subscription = subscribed(made)
    world.client.publish(CHANNEL, message("a"))
    receive_until(made, subscription, lambda: made.writer.buffer.open_views)
    folds.fold_segment("other", folds.publish_cut(folds.read_or_create_key_space_id(), "other", 0), Counter(a=1), 1)
    expire(world)
    made._stats.enter_state("standby")
    made.writer.acquire_or_renew_lease()
    made._on_subscription_lost(RedisUnavailable("reset"))
    subscription.close()
    again = subscribed(made)
    made.writer.try_to_fold_and_cut()
    receive_until(made, again, lambda: made.writer.buffer.numbered)
    assert made.writer.try_to_fold_and_cut()
    again.close()
    assert world.counters() == {"a": 1}
