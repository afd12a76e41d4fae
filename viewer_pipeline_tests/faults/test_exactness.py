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
from viewer_pipeline.ingest.fold_store import FoldStore, LeaseResult, split
from viewer_pipeline.ingest.lease import LEASE_MS, LEASE_SECONDS
from viewer_pipeline.ingest.rejections import Rejections
from viewer_pipeline.ingest.segment_buffer import Segment
from viewer_pipeline.ingest.stats import SubscriberStats
from viewer_pipeline.ingest.subscriber import Subscriber
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
def folds(world: World) -> FoldStore:
    """What the test itself cuts and folds with."""
    return FoldStore(world.stores.redis, increment=True)


Make = Callable[[], Subscriber]


@pytest.fixture
def make(settings: Settings) -> Iterator[Make]:
    """Return a function that makes a subscriber that does nothing by itself; the test calls its steps."""
    with ExitStack() as stack:

        def subscriber() -> Subscriber:
            made = Subscriber(settings, Rejections(Ledger(settings.require_database_url())), SubscriberStats())
            made.folder.key_space = made.folder.folds.key_space()
            made.folder.ledger.start(30)
            stack.callback(made.folder.ledger.close)
            return made

        yield subscriber


def subscribed(subscriber: Subscriber) -> Subscription:
    """Subscribe as this subscriber does."""
    subscription = subscriber._new_subscription()
    subscription.open()
    return subscription


def message(vod_id: str) -> bytes:
    """Return the message of one view."""
    return orjson.dumps({"vodId": vod_id, "count": 1})


def expire(world: World) -> None:
    """Expire the lease now."""
    seconds, microseconds = world.client.time()
    world.client.hset(SUBSCRIBER, "expires", seconds * 1000 + microseconds // 1000)


def hold(world: World, folds: FoldStore, token: str) -> None:
    """Hold the lease as a subscriber that cuts and folds only when the test does."""
    ledger = world.identity.key
    until = int(time.time() * 1000) + 9 * LEASE_MS
    world.client.hset(SUBSCRIBER, mapping={"holder": token, "expires": until, "ledger": ledger})
    folds._ledger = ledger
    world.client.hincrby(SUBSCRIBER, "term", 1)
    assert folds.cut(folds.key_space(), token, 0) > 0


def test_begun_segment_closes_older_segments(folds: FoldStore, world: World) -> None:
    """Another worker has an older segment that the holder lacked: folding it must not restart the newer one."""
    space = folds.key_space()
    hold(world, folds, "a")
    older = folds.cut(space, "a", 0)
    newer = folds.cut(space, "a", 0)
    assert folds._fold_part("a", newer, 1, split(LARGE, 3), 1) == [1]
    hold(world, folds, "b")
    assert not folds.fold("b", older, Counter(v0000=5), 1).written
    folds.fold("b", newer, LARGE, 1)
    counters = world.counters()
    assert all(counters[vod_id] <= views for vod_id, views in LARGE.items())


def test_leave_after_a_fold_without_a_reply(make: Make, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views that may be folded under their number are not folded again under another one."""
    leaving = make()
    folder = leaving.folder
    folder.renew_lease()
    number = folder.folds.cut(folder.key_space, folder.lease.fencing_token, 0)
    folder.buffer.cut(number, 0)
    folder.buffer.segments.append(Segment(folder.folds.cut(folder.key_space, folder.lease.fencing_token, 0), LARGE))
    folder.buffer.last_cut = number + 1
    whole = folder.folds.fold

    def fold_without_reply(*arguments: Any) -> Any:
        whole(*arguments)
        raise RedisUnavailable("Timeout reading from socket")

    with monkeypatch.context() as patch:
        patch.setattr(folder.folds, "fold", fold_without_reply)
        assert not folder.write()
    assert world.counters() == dict(LARGE)
    folder.buffer.open_views.update(late=1)
    assert leaving._shutdown.leave() == 0
    assert world.counters() == dict(LARGE) | {"late": 1}


def test_leave_with_a_broken_connection(settings: Settings, make: Make, world: World) -> None:
    """A standby has all that the leaving worker missed: it folds that, and nothing twice."""
    leaving = make()
    folder = leaving.folder
    folder.renew_lease()
    with SubscriberThread(settings) as standby:
        number = folder.folds.cut(folder.key_space, folder.lease.fencing_token, 0)
        folder.buffer.cut(number, 0)
        world.client.publish(CHANNEL, message("both"))
        folder.buffer.open_views.update(both=1)
        folder.buffer.on_disconnect(holder=True)
        world.client.publish(CHANNEL, message("standby only"))
        wait_until(lambda: standby.stats.received == 2, 20, "both messages received")
        assert leaving._shutdown.leave() == 0
        wait_until(lambda: standby.stats.state == "listening", 20, "the standby to take over")
    assert world.counters() == {"both": 1, "standby only": 1}


def test_late_worker_leaves_the_lease_to_a_complete_standby(settings: Settings, folds: FoldStore, world: World) -> None:
    """A killed holder that is started again comes first; only the standby has the messages published meanwhile."""
    hold(world, folds, "killed")
    with SubscriberThread(settings) as standby:
        for _ in range(2):  # the standby is whole once a segment that began after it came was folded
            number = folds.cut(folds.key_space(), "killed", 0)
            folds.fold("killed", number, Counter(before=1), 1)
        world.client.publish(CHANNEL, message("meanwhile"))
        wait_until(lambda: standby.stats.received == 1, 20, "the message received")
        standby.subscriber.folder.lease._due = time.monotonic() + LEASE_SECONDS
        expire(world)
        with SubscriberThread(settings) as late:
            wait_until(lambda: standby.stats.state == "listening", 20, "the standby to take over")
            assert late.stats.state == "standby"
            world.client.publish(CHANNEL, message("after"))
            wait_until(lambda: "after" in world.counters(), 20, "the last message")
    assert world.counters() == {"before": 2, "meanwhile": 1, "after": 1}


def test_late_worker_without_others_takes_over(settings: Settings, folds: FoldStore, world: World) -> None:
    """No other worker is subscribed: there is nothing to wait for."""
    hold(world, folds, "killed")
    expire(world)
    with SubscriberThread(settings) as late:
        assert late.stats.state == "listening"
        world.client.publish(CHANNEL, message("a"))
    assert world.counters() == {"a": 1}


def test_standby_notices_another_key_space(settings: Settings, folds: FoldStore, world: World) -> None:
    """Redis was emptied and another worker created its id: segments it folded are not folded again."""
    hold(world, folds, "old")
    world.client.hset(SUBSCRIBER, "cut", 1000)
    with SubscriberThread(settings) as standby:
        folds.cut(folds.key_space(), "old", 0)
        world.client.publish(CHANNEL, message("before"))
        wait_until(lambda: standby.stats.received == 1, 20, "the first message")
        world.client.flushall()
        world.client.hset(SUBSCRIBER, mapping={"id": "new", "format": 2})
        hold(world, folds, "new")
        world.client.publish(CHANNEL, message("m"))
        folds.fold("new", folds.cut("new", "new", 0), Counter(m=1), 1)
        wait_until(lambda: world.client.pubsub_numsub("viewer:cuts:new")[0][1] == 1, 20, "a subscription to its cuts")
        expire(world)
        wait_until(lambda: standby.stats.state == "listening", 20, "the standby to take over")
        world.client.publish(CHANNEL, message("after"))
        wait_until(lambda: "after" in world.counters(), 20, "the last message")
    assert world.counters() == {"m": 1, "after": 1}


def test_lease_lost_and_acquired_without_a_reply(
    make: Make, world: World, folds: FoldStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis receives the attempt twice, and the second reply is `renewed`: another worker held it in between."""
    held = make()
    held.folder.renew_lease()
    held.folder.buffer.unsequenced.update(a=1)
    expire(world)
    hold(world, folds, "other")
    folds.fold("other", folds.cut(folds.key_space(), "other", 0), Counter(a=1), 1)
    world.client.hdel(SUBSCRIBER, "holder", "expires", "worker")
    once = held.folder.folds.acquire_or_renew

    def sent_twice(*arguments: Any) -> LeaseResult:
        once(*arguments)
        return once(*arguments)

    monkeypatch.setattr(held.folder.folds, "acquire_or_renew", sent_twice)
    held.folder.renew_lease()
    assert held.folder.lease.held
    assert held.folder.buffer.view_count() == 0
    assert held._stats.takeovers == 2


def test_holder_without_numbers_hands_over(settings: Settings, make: Make, world: World) -> None:
    """It lost its connection again before a cut: a standby has received more than the holder kept."""
    holder = make()
    holder.folder.renew_lease()
    holder.folder.buffer.unsequenced.update(a=1)
    with SubscriberThread(settings) as standby:
        for vod_id in ("a", "b"):
            world.client.publish(CHANNEL, message(vod_id))
        wait_until(lambda: standby.stats.received == 2, 20, "both messages received")
        subscribed(holder).close()
        wait_until(lambda: standby.stats.state == "listening", 20, "the standby to take over")
    assert world.counters() == {"a": 1, "b": 1}
    assert holder.folder.buffer.view_count() == 0


def test_many_ids_between_two_cuts(settings: Settings, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than MAX_IDS wait in front of the next cut: the holder must read on to reach it."""
    monkeypatch.setattr(subscriber_module, "MAX_IDS", 500)
    with SubscriberThread(settings) as made, world.client.pipeline(transaction=False) as pipeline:
        for number in range(20_000):
            pipeline.publish(CHANNEL, message(f"v{number}"))
        pipeline.execute()
        wait_until(lambda: made.stats.folded_views == 20_000, 30, "all folded")
    assert world.counters() == {f"v{n}": 1 for n in range(20_000)}


def test_stop_waits_for_the_lease_of_a_dead_holder(settings: Settings, folds: FoldStore, world: World) -> None:
    """No other worker has received what the dead one did not fold: the stop folds it."""
    space = folds.key_space()
    assert folds.acquire_or_renew(claim(world.identity, space, "ghost", "dead"), LEASE_MS, 0).outcome == "acquired"
    with SubscriberThread(settings) as standby:
        world.client.publish(CHANNEL, message("a"))
        wait_until(lambda: standby.stats.received == 1, 30, "received")
        assert standby.stats.state == "standby"
        assert world.counters() == {}
    assert world.counters() == {"a": 1}


def test_lease_of_a_clock_set_back_is_over(folds: FoldStore, world: World) -> None:
    """A lease that ends later than any lease can is over."""
    space = folds.key_space()
    assert folds.acquire_or_renew(claim(world.identity, space, "before", "host"), LEASE_MS, 0).outcome == "acquired"
    world.client.hset(SUBSCRIBER, "expires", int(time.time() * 1000) + HOUR_MS)
    assert (
        folds.acquire_or_renew(claim(world.identity, space, "after", "host", term=1), LEASE_MS, 0).outcome == "acquired"
    )


def receive_until(made: Subscriber, subscription: Subscription, condition: Callable[[], object]) -> None:
    """Read message by message, so that what comes behind is still on its way."""

    def received() -> object:
        made.folder.receiver.receive(subscription.read(0.05))
        return condition()

    wait_until(received, 20, "what was published")


def test_views_that_an_earlier_holder_may_have_folded_are_dropped(make: Make, folds: FoldStore, world: World) -> None:
    """A connection older than the lease breaks while the earlier holder's cut is on its way."""
    hold(world, folds, "other")
    made = make()
    subscription = subscribed(made)
    world.client.publish(CHANNEL, message("a"))
    receive_until(made, subscription, lambda: made.folder.buffer.open_views)
    folds.fold("other", folds.cut(folds.key_space(), "other", 0), Counter(a=1), 1)
    expire(world)
    made._stats.enter("standby")
    made.folder.renew_lease()
    made._on_lost(RedisUnavailable("reset"))
    subscription.close()
    again = subscribed(made)
    made.folder.write()
    receive_until(made, again, lambda: made.folder.buffer.numbered)
    assert made.folder.write()
    again.close()
    assert world.counters() == {"a": 1}
