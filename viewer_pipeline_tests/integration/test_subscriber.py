"""The subscriber on a real Redis: each message counts once, whatever breaks in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import redis

from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.reject_recorder import MAX_ROWS_PER_REASON
from viewer_pipeline.ingest.subscription import Subscription
from viewer_pipeline.logs import Event
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.subscribers import CHANNEL, SubscriberThread
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

Listen = Callable[..., SubscriberThread]


@pytest.fixture
def listen(redis_url: str, database_url: str) -> Listen:
    """Return a function that makes a subscriber with some settings; `with` runs it."""

    def subscriber(**settings: Any) -> SubscriberThread:
        return SubscriberThread(Settings(**{"database_url": database_url, "redis_url": redis_url} | settings))

    return subscriber


def publish(client: redis.Redis, vod_id: str, count: int = 1) -> None:
    """Publish as a producer does."""
    assert client.publish(CHANNEL, orjson.dumps({"vodId": vod_id, "count": count})) >= 1


def test_increment_mode_raises_counters(listen: Listen, world: World) -> None:
    """VODs are marked changed with the time."""
    with listen():
        for number in range(1000):
            publish(world.client, f"v{number % 7}", 2)
    assert world.counters() == {"v0": 286} | {f"v{n}": 286 for n in range(1, 6)} | {"v6": 284}
    assert set(world.client.zrange("viewer:changed", 0, -1)) == {f"v{n}".encode() for n in range(7)}
    _, oldest = world.stores.redis.changed_set_size_and_oldest()
    assert oldest is not None
    assert abs((world.stores.redis.now() - oldest).total_seconds()) < 60


def test_announce_mode_marks_vods_changed(listen: Listen, world: World) -> None:
    """Counters are not raised."""
    with listen(pubsub_mode="announce"):
        world.send("a", 1)
        publish(world.client, "a")
    assert world.counters() == {"a": 1}
    assert world.client.zrange("viewer:changed", 0, -1) == [b"a"]


def test_announce_mode_needs_no_count(listen: Listen, world: World) -> None:
    """The message names the VOD; invalid ones are rejected. With `increment`, it is rejected with the reason."""
    payload, reason = b'{"vodId":"a"}', "count is missing, and PUBSUB_MODE=increment needs it"
    with listen(pubsub_mode="announce") as made:
        world.client.publish(CHANNEL, payload)
        world.client.publish(CHANNEL, b'{"vodId":7}')
    assert world.client.zrange("viewer:changed", 0, -1) == [b"a"]
    assert world.counters() == {}
    assert (made.stats.accepted, made.stats.rejected) == (1, {"vodId is not text": 1})
    with listen() as made:
        world.client.publish(CHANNEL, payload)
    assert (made.stats.accepted, made.stats.rejected) == (0, {reason: 1})
    assert world.counters() == {}
    assert set(world.rejected().values()) == {"vodId is not text", reason}


def test_changed_set_keeps_the_first_announcement_time(listen: Listen, world: World) -> None:
    """Later announcements do not make pending views younger."""
    world.client.zadd("viewer:changed", {"a": 1000})
    with listen():
        publish(world.client, "a")
    assert world.client.zscore("viewer:changed", "a") == 1000


def test_stop_folds_received_messages(listen: Listen, world: World) -> None:
    """Also messages that arrive during the stop."""
    with listen():
        for _ in range(50):
            publish(world.client, "a")
    assert world.counters() == {"a": 50}


def test_foreign_messages_change_nothing(listen: Listen, world: World) -> None:
    """Pub/sub knows no databases: cuts of another deployment and invalid cuts on our own channel are ignored."""
    with listen():
        ours: Any = world.client.pubsub_channels("viewer:cuts:*")
        cuts, alone = sorted(ours, key=len)  # the other shows on which server the subscription is
        for payload in ("boo", "", "-1", "99999 99999"):
            if payload != "99999 99999":
                world.client.publish(cuts, payload)
            world.client.publish(alone, payload)
        for number in range(100):
            publish(world.client, "a")
            world.client.publish("viewer:cuts:another", number)
    assert world.counters() == {"a": 100}


def test_refused_writes_keep_messages_in_memory(listen: Listen, world: World) -> None:
    """The subscriber keeps receiving, and folds once Redis accepts writes."""
    with listen():
        publish(world.client, "a")
        wait_until(lambda: world.counters() == {"a": 1}, 20, "the first message")
        world.client.config_set("maxmemory", 1)
        for _ in range(200):
            publish(world.client, "a")
        world.client.config_set("maxmemory", 0)
        wait_until(lambda: world.counters() == {"a": 201}, 20, "what was received meanwhile")


def test_folds_are_not_resumed_by_an_attempt_that_has_nothing_to_write(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While Redis does not answer, `/health` and the log keep its refusal, also where no view waits."""
    caplog.set_level("INFO", "viewer_pipeline.subscriber")
    with (
        Proxy.of(redis_url, 0) as proxy,
        SubscriberThread(Settings(database_url=database_url, redis_url=proxy.url(redis_url))) as running,
    ):
        writer, stats = running.subscriber.writer, running.stats
        running.freeze()
        assert writer.try_to_fold_and_cut()  # ends what the last renewal of the lease has begun
        proxy.blackhole()
        writer.acquire_or_renew_lease()
        assert stats.refusal_reason
        writer.try_to_fold_and_cut()
        assert stats.refusal_reason
        assert "folding_resumed" not in caplog.text
        proxy.heal()
        running.thaw()
        wait_until(lambda: not stats.refusal_reason, 30, "Redis accepts folds")
        assert "folding_resumed" in caplog.text


def test_refused_views_are_recorded_each_time(listen: Listen, world: World) -> None:
    """Of a counter that cannot be raised: all its views, not only the first ones."""
    world.client.lpush(PREFIX + "list", "x")
    with listen():
        for round_ in range(3):
            publish(world.client, "list", 5)
            wait_until(
                lambda round_=round_: len(world.rows("SELECT 1 FROM viewer.rejected")) == round_ + 1,  # type: ignore[misc]
                20,
                "the reject",
            )
    assert world.rows("SELECT sum(value::int) FROM viewer.rejected") == [(15,)]


def test_invalid_messages_are_rejected(listen: Listen, world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Each with its reason, beside valid ones; a limited number of each reason is stored. Each is logged once."""
    bad = [b"no json", b"[1]", b'{"vodId": 5, "count": 1}', b'{"vodId": "a", "count": 1.5}', b"\xff", b""]
    with listen() as made:
        for payload in [*bad, *(b"junk %d" % n for n in range(3 * MAX_ROWS_PER_REASON))]:
            world.client.publish(CHANNEL, payload)
        publish(world.client, "good")
        wait_until(lambda: world.counters() == {"good": 1}, 20, "the good message")
    assert made.stats.rejected["not JSON"] == 3 * MAX_ROWS_PER_REASON + 3
    reasons = Counter(world.rejected().values())
    assert reasons == {
        "not JSON": MAX_ROWS_PER_REASON,
        "not an object": 1,
        "vodId is not text": 1,
        "count is not a positive integer": 1,
    }
    events = [record.msg for record in caplog.records if record.name == "viewer_pipeline.rejections"]
    lines = [logged_event.fields for logged_event in events if isinstance(logged_event, Event)]
    logged = Counter[str]()
    for line in lines:
        logged[line["reason"]] += line["messages"]
    assert logged == made.stats.rejected
    assert {line["example"] for line in lines} >= {"[1]", '{"vodId": 5, "count": 1}', '{"vodId": "a", "count": 1.5}'}


def test_unraisable_counters_are_rejected(listen: Listen, world: World) -> None:
    """Another type, or an overflow: the views of the message are recorded, others count."""
    world.client.lpush(PREFIX + "list", "x")
    world.client.set(PREFIX + "full", 2**63 - 1)
    with listen():
        publish(world.client, "list", 5)
        publish(world.client, "full", 6)
        publish(world.client, "good", 7)
    rows = world.rows("SELECT subject, value FROM viewer.rejected WHERE source = 'message' ORDER BY subject")
    assert rows == [("full", "6"), ("list", "5")]
    assert world.client.get(PREFIX + "good") == b"7"
    assert world.client.zrange("viewer:changed", 0, -1) == [b"good"]


def test_subscribing_requests_a_sweep(listen: Listen, world: World) -> None:
    """Messages may have been missed before."""
    with listen():
        assert (world.stores.redis.sweep_request() or b"").endswith(
            b"subscribed or took over; messages may have been missed before"
        )


def test_lost_subscription_reconnects_and_requests_a_sweep(listen: Listen, world: World) -> None:
    """The connection is killed between two messages: both count, once."""
    with listen() as made:
        publish(world.client, "a")
        wait_until(lambda: world.counters() == {"a": 1}, 20, "the first message")
        world.client.hdel("viewer:subscriber", "sweep")
        world.client.client_kill_filter(_type="pubsub")
        wait_until(lambda: world.stores.redis.sweep_request() is not None, 20, "a sweep asked for")
        wait_until(lambda: made.stats.state == "listening", 20, "listening again")
        publish(world.client, "a")
    assert world.counters() == {"a": 2}


def test_messages_before_a_loss_are_folded_once(listen: Listen, world: World) -> None:
    """Messages in memory survive any number of broken connections."""
    sent = 0
    with listen():
        for _ in range(20):
            for _ in range(25):
                sent += world.client.publish(CHANNEL, b'{"vodId":"a","count":1}')
            world.client.client_kill_filter(_type="pubsub")
            wait_until(lambda: bool(dict(world.client.pubsub_numsub(CHANNEL))[CHANNEL.encode()]), 20, "subscribed")
    assert 0 < world.counters()["a"] <= sent


def test_messages_with_the_confirmation_are_received_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published while the subscription was confirmed and nobody read yet: in one piece with the confirmation."""
    subscription = Subscription(connect(world.stores.redis.url), [CHANNEL, "viewer:cuts:x"])
    read, sent = subscription.read_messages, [b"%d" % number for number in range(13)]

    def read_late(timeout: float) -> list[tuple[bytes, bytes]]:
        monkeypatch.undo()
        wait_until(lambda: world.client.pubsub_numsub(CHANNEL)[0][1] == 1, 20, "subscribed")
        for payload in sent:
            world.client.publish(CHANNEL, payload)
        return read(timeout)

    monkeypatch.setattr(subscription, "read_messages", read_late)
    received: list[tuple[bytes, bytes]] = []
    try:
        subscription.open()
        while len(received) < len(sent):
            received += subscription.read_messages(1)
    finally:
        subscription.close()
    assert received == [(CHANNEL.encode(), payload) for payload in sent]


def test_changed_set_is_read_in_pages(world: World) -> None:
    """Oldest announcement first, all of them."""
    ids = {f"id{n:05d}": n for n in range(2500)}
    world.client.zadd("viewer:changed", ids)
    store = RedisStore(world.client, world.stores.redis.url, PREFIX)
    pages = list(store.changed_ids_oldest_first())
    assert [raw.decode() for page in pages for raw in page] == list(ids)
    assert len(pages) == 3
