"""LeaseResult, cuts and folds on a real Redis: a segment is written once, by the holder of the lease."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import redis

from viewer_pipeline.errors import RedisRefusesWrites
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.subscriber_scripts import FOLD, KeySpaceChanged, LeaseLost, LeaseResult, SubscriberScripts
from viewer_pipeline.redis_names import RedisNames
from viewer_pipeline_tests.support.claims import SOME_LEDGER, claim
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

CHANNEL = "view_count_updates"
SPACE = "test"
CUTS = RedisNames.of(PREFIX).cuts_channel(SPACE)
HOUR_MS = 3_600_000
LARGE = Counter({f"v{n:04d}": n + 1 for n in range(1200)})  # three parts


@pytest.fixture
def folds(client: redis.Redis, redis_url: str) -> SubscriberScripts:
    """Folds on the empty Redis."""
    return SubscriberScripts(RedisStore(client, redis_url, PREFIX), increment=True)


@pytest.fixture
def token(folds: SubscriberScripts) -> str:
    """A token that holds the lease."""
    assert attempt(folds, "mine", "test", 0).outcome == "acquired"
    return "mine"


def attempt(folds: SubscriberScripts, token: str, worker: str, last_message_ms: int = 0, **knows: Any) -> LeaseResult:
    """Try for the lease, and again with the term that the first result returned."""
    lease = folds.acquire_or_renew_lease(
        claim(SOME_LEDGER, SPACE, token, worker, last_message_ms=last_message_ms, **knows), HOUR_MS, 0
    )
    if lease.outcome == "held_by_other":
        lease = folds.acquire_or_renew_lease(
            claim(SOME_LEDGER, SPACE, token, worker, lease.term, last_message_ms=last_message_ms, **knows), HOUR_MS, 0
        )
    return lease


def take_over(world: World, folds: SubscriberScripts) -> str:
    """Let the lease run out, and take it."""
    world.client.hset("viewer:subscriber", "expires", 0)
    assert attempt(folds, "theirs", "other", 0).outcome == "acquired"
    return "theirs"


def test_lease_has_one_holder(folds: SubscriberScripts, world: World) -> None:
    """It is acquired, renewed, refused to another worker, released; and it never expires as a key."""
    assert attempt(folds, "a", "host:1", 0) == ("acquired", 0, 1, SOME_LEDGER.key)
    assert attempt(folds, "b", "host:2", 0) == ("held_by_other", 0, 1, SOME_LEDGER.key)
    assert attempt(folds, "a", "host:1", 12345) == ("renewed", 0, 1, SOME_LEDGER.key)
    assert world.client.hmget("viewer:subscriber", "worker", "last_message") == [b"host:1", b"12345"]
    folds.release_lease("b", SPACE)
    assert attempt(folds, "b", "host:2", 0).outcome == "held_by_other"
    folds.release_lease("a", SPACE)
    assert attempt(folds, "b", "host:2", 0).outcome == "acquired"
    assert world.client.ttl("viewer:subscriber") == -1


def test_expired_lease_is_acquired_by_another(folds: SubscriberScripts, token: str, world: World) -> None:
    """The old holder is refused from then on."""
    number = folds.publish_cut(SPACE, token, 0)
    take_over(world, folds)
    with pytest.raises(LeaseLost):
        folds.fold_segment(token, number, Counter(a=1), 1)
    with pytest.raises(LeaseLost):
        folds.publish_cut(SPACE, token, 0)
    assert attempt(folds, token, "test", 0).outcome == "held_by_other"
    assert world.counters() == {}


def test_release_notifies_subscribers(folds: SubscriberScripts, token: str, world: World) -> None:
    """Standby workers need not wait for the lease to expire."""
    listener: Any = world.client.pubsub()  # type: ignore[no-untyped-call]  # redis-py
    listener.subscribe(CUTS)
    wait_until(partial(listener.get_message, timeout=1), 20, "subscribed")
    assert folds.count_subscribed_workers(SPACE) == 1
    folds.release_lease(token, SPACE)
    message: Any = listener.get_message(timeout=ENOUGH)
    assert message["data"] == b"released"
    listener.close()


def test_repeated_fold_counts_once(folds: SubscriberScripts, token: str, world: World) -> None:
    """As redis-py repeats it after a timeout; also a segment of several scripts."""
    number = folds.publish_cut(SPACE, token, 0)
    assert folds.fold_segment(token, number, LARGE, 1).written
    assert not folds.fold_segment(token, number, LARGE, 1).written
    assert world.counters() == dict(LARGE)


def test_begun_segment_is_resumed_by_another(folds: SubscriberScripts, token: str, world: World) -> None:
    """The holder died after the first part: the other parts are written, that one is not again."""
    number = folds.publish_cut(SPACE, token, 0)
    die_after(folds, 1, token, number, LARGE)
    assert 0 < len(world.counters()) < len(LARGE)
    assert folds.fold_segment(take_over(world, folds), number, LARGE, 1).written
    assert world.counters() == dict(LARGE)


def test_begun_segment_is_resumed_by_a_worker_that_received_less(
    folds: SubscriberScripts, token: str, world: World
) -> None:
    """It has another number of parts, and yet no view counts twice."""
    number = folds.publish_cut(SPACE, token, 0)
    die_after(folds, 2, token, number, LARGE)
    less = Counter(dict(list(LARGE.items())[:300]))
    assert folds.fold_segment(take_over(world, folds), number, less, 1).written
    counters = world.counters()
    assert all(counters[vod_id] == views for vod_id, views in less.items())
    assert all(LARGE[vod_id] == views for vod_id, views in counters.items())


def die_after(folds: SubscriberScripts, parts: int, token: str, number: int, views: Counter[str]) -> None:
    """Fold the first parts only."""
    whole, left = folds._fold_part, iter([True] * parts)
    dying = patch.object(folds, "_fold_part", lambda *arguments: whole(*arguments) if next(left, False) else _die())
    with dying, pytest.raises(KeyboardInterrupt):
        folds.fold_segment(token, number, views, 1)


def _die() -> None:
    raise KeyboardInterrupt


def test_subscribers_cut_at_the_same_messages(world: World, folds: SubscriberScripts, token: str) -> None:
    """Each receives the same messages between two cuts, so a segment's number is enough to count it once."""
    listeners: list[Any] = [world.client.pubsub() for _ in range(2)]  # type: ignore[no-untyped-call]  # redis-py
    for listener in listeners:
        listener.subscribe(CHANNEL, CUTS)
        for _ in range(2):
            wait_until(partial(listener.get_message, timeout=1), 20, "subscribed")
    for number in range(100):
        world.client.publish(CHANNEL, str(number))
        if number % 7 == 0:
            folds.publish_cut(SPACE, token, 0)
    last = folds.publish_cut(SPACE, token, 0)
    received: list[list[tuple[bytes, bytes]]] = [[], []]
    for listener, messages in zip(listeners, received, strict=True):
        while not messages or messages[-1] != (CUTS.encode(), b"%d 0" % last):
            message: Any = listener.get_message(timeout=1)
            if message:
                messages.append((message["channel"], message["data"]))
        listener.close()
    assert received[0] == received[1]


def test_cut_numbers_rise_above_folded_segments(folds: SubscriberScripts, token: str, world: World) -> None:
    """A Redis that lost its last writes must not take a new segment for an old one."""
    world.client.hset("viewer:subscriber", mapping={"cut": 3, "folded": 9})
    assert folds.publish_cut(SPACE, token, 0) == 10
    assert folds.fold_segment(token, 10, Counter(a=1), 1).written


def test_cut_numbers_rise_above_received_cuts(folds: SubscriberScripts, token: str, world: World) -> None:
    """A Redis that was emptied: the holder's segments keep their numbers, and the key space its id."""
    folds.publish_cut(SPACE, token, 0)
    world.client.flushall()
    with pytest.raises(LeaseLost):
        folds.publish_cut(SPACE, token, 41)
    assert attempt(folds, token, "test", 0).outcome == "acquired"
    assert folds.publish_cut(SPACE, token, 41) == 42
    assert folds.read_or_create_key_space_id() == SPACE


def test_cut_in_another_key_space_is_refused(folds: SubscriberScripts, token: str, world: World) -> None:
    """No worker would receive the cut, so the subscriber subscribes again."""
    world.client.hset("viewer:subscriber", "id", "other")
    with pytest.raises(KeySpaceChanged):
        folds.publish_cut(SPACE, token, 0)


def test_refused_fold_counts_nothing(folds: SubscriberScripts, token: str, world: World) -> None:
    """It counts once when it is sent again."""
    number = folds.publish_cut(SPACE, token, 0)
    world.client.config_set("maxmemory", 1)
    with pytest.raises(Exception, match="refuses writes"):
        folds.fold_segment(token, number, Counter(a=1), 1)
    world.client.config_set("maxmemory", 0)
    assert folds.fold_segment(token, number, Counter(a=1), 1).written
    assert world.counters() == {"a": 1}


def test_fold_script_returns_an_outcome_for_each_part(folds: SubscriberScripts, token: str) -> None:
    """0 for a part that was written before, -1 for another holder, -2 for another number of parts."""
    number = folds.publish_cut(SPACE, token, 0)
    keys = ["viewer:subscriber", "viewer:changed", PREFIX + "a"]

    def fold(holder: str, part: int, of: int) -> Any:
        arguments: list[str | int] = [holder, number, part, of, 1, 1, len(PREFIX), "7", SOME_LEDGER.key, 1, ""]
        return FOLD.run(folds._store._client, keys, arguments)

    assert fold(token, 1, 2) == [1]
    assert fold(token, 1, 2) == [0]
    assert fold("other", 2, 2) == [-1]
    assert fold(token, 1, 3) == [-2, 2]
    assert fold(token, 2, 2) == [1]
    assert fold(token, 2, 2) == [0]


def test_out_of_memory_is_a_transient_error(folds: SubscriberScripts, world: World) -> None:
    """redis-py shows it by the type of its error, not in its text."""
    world.client.config_set("maxmemory", 1)
    with pytest.raises(RedisRefusesWrites):
        folds.read_or_create_key_space_id()
    world.client.config_set("maxmemory", 0)
