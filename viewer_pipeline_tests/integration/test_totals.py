"""The channel of totals: the messages that subscribers receive after a flush."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
import redis

from viewer_pipeline.flush import transaction
from viewer_pipeline.flush.ledger_reads import totals
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

CHANNEL = "view_count_totals"
END = b"end"
PAGE = Path(__file__).parents[2] / "docs" / "totals.md"
PASSWORD = "hidden-word"


class Ear:
    """A subscriber that is there from the start."""

    def __init__(self, client: redis.Redis, channel: str = CHANNEL) -> None:
        self.client, self.channel = client, channel
        self.pubsub = client.pubsub()  # type: ignore[no-untyped-call]  # redis-py
        self.pubsub.subscribe(channel)
        assert self.pubsub.get_message(timeout=ENOUGH) is not None  # Redis has counted that it is subscribed

    def listen(self) -> Iterator[dict[str, Any]]:
        """Yield what comes until somebody publishes END."""
        for message in self.pubsub.listen():
            if message["data"] == END:
                return
            yield orjson.loads(message["data"])

    def received(self) -> list[dict[str, Any]]:
        """Return everything that was published so far."""
        self.client.publish(self.channel, END)
        return list(self.listen())


@pytest.fixture
def ear(client: redis.Redis) -> Iterator[Ear]:
    """A subscriber of the channel of totals."""
    listening = Ear(client)
    yield listening
    listening.pubsub.close()


def counts(messages: list[dict[str, Any]]) -> dict[str, int]:
    """Put the counts of messages together, later ones over earlier ones."""
    return {vod_id: total for message in messages for vod_id, total in message["counts"].items()}


def test_every_batch_publishes_its_totals(world: World, ear: Ear) -> None:
    """Ten counters at four a flush and two a batch: five messages in order, the totals those of the table."""
    world.send_many(10)
    world.flush()
    messages = ear.received()
    assert [message["flush"] for message in messages] == [1, 1, 2, 2, 3]
    assert messages[0] == {"flush": 1, "counts": {"vod0000": 3, "vod0001": 3}}
    assert counts(messages) == world.totals()


def test_totals_are_those_after_the_flush(world: World, ear: Ear) -> None:
    """Baseline and earlier flushes included, each VOD with its own, whatever its id."""
    for number, vod_id in enumerate(["b", "a", "é", "Z", "😀", "\ue000", "a:b", '"'], 1):
        world.send(vod_id, number)
    world.execute("INSERT INTO viewer.vod_view_counts VALUES ('Z', 1000, 1000, 0, now())")
    world.flush()
    first = ear.received()
    for number, vod_id in enumerate(["a", "é", "Z"], 1):
        world.send(vod_id, 10 * number)
    world.flush(batch_size=100)
    assert counts(first) == {"b": 1, "a": 2, "é": 3, "Z": 1004, "😀": 5, "\ue000": 6, "a:b": 7, '"': 8}
    assert ear.received() == [{"flush": 3, "counts": {"Z": 1034, "a": 12, "é": 23}}]


def test_parked_views_are_left_out(world: World, ear: Ear) -> None:
    """Of a VOD whose total would leave bigint; a batch that has no other VOD has no message."""
    world.send("huge", 2**63 - 1)
    world.send("small", 1)
    world.flush()
    for vod_id in ("huge", "small", "tiny"):
        world.send(vod_id, 5)
    world.flush()
    world.send("huge", 5)
    world.send("zero", 1)
    world.flush(batch_size=1)
    assert world.parked() == {"huge": 10}
    assert [message["counts"] for message in ear.received()] == [
        {"huge": 2**63 - 1, "small": 1},
        {"small": 6},
        {"tiny": 5},
        {"zero": 1},
    ]


def test_the_channel_is_that_of_the_settings(world: World) -> None:
    """TOTALS_CHANNEL reaches the store that the flush job uses."""
    ledger_url, redis_url = world.stores.ledger.url, world.stores.redis.url
    settings = Settings(database_url=ledger_url, redis_url=redis_url, totals_channel="elsewhere")
    listening = Ear(world.client, "elsewhere")
    with Stores.open(settings) as stores:
        world.stores = stores
        world.send("a", 1)
        world.flush()
    assert listening.received() == [{"flush": 1, "counts": {"a": 1}}]
    listening.pubsub.close()


def test_a_message_comes_after_commit_and_settling(world: World, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """Already when it is sent, PostgreSQL has that total for everybody, and Redis has nothing of it pending."""
    original, seen = RedisStore.publish_totals, list[tuple[bool, list[str]]]()

    def check_and_publish(store: RedisStore, messages: Iterable[bytes]) -> None:
        sent = list(messages)
        counted = counts([orjson.loads(message) for message in sent])
        with world.stores.ledger.connect() as connection:
            stored = totals(connection, list(counted))
        seen.append((counted == stored, [vod_id for vod_id in counted if world.client.exists(PREFIX + vod_id)]))
        original(store, sent)

    monkeypatch.setattr(RedisStore, "publish_totals", check_and_publish)
    world.send_many(10)
    world.flush()
    assert seen == [(True, [])] * 3
    assert counts(ear.received()) == world.totals()


@pytest.fixture
def muted(world: World, redis_url: str) -> Iterator[World]:
    """The same world, as a Redis user that may do anything but publish."""
    rules = ["on", f">{PASSWORD}", "~*", "+@all", "resetchannels"]
    world.client.execute_command("ACL SETUSER", "muted", *rules)  # type: ignore[no-untyped-call]  # redis-py
    url = f"redis://muted:{PASSWORD}@{redis_url.rpartition('@')[2].removeprefix('redis://')}"
    with connect(url) as client:
        yield World(Stores(RedisStore(client, url, PREFIX), world.stores.ledger))
    world.client.acl_deluser("muted")


def test_a_redis_that_refuses_to_publish_fails_no_flush(muted: World, caplog: pytest.LogCaptureFixture) -> None:
    """All is persisted; one line of the log and the notes name what was not published, without a password."""
    muted.send_many(10)
    with caplog.at_level(logging.WARNING, "viewer_pipeline"):
        done = muted.flush()
    muted.assert_all_persisted()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"totals_not_published channel={CHANNEL} seq=1 reason=")
    (sentence,) = done.notes.sentences()
    assert sentence.startswith("totals of 3 flushes were not published: Redis refused a command: ")
    assert "permission" in sentence
    assert PASSWORD not in record.getMessage() + sentence


def test_flushes_of_a_run_that_died_are_not_published(world: World, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run settles them; the VOD's next views publish its total."""
    world.send("a", 5)
    world.send("b", 5)
    with monkeypatch.context() as patch:
        patch.setattr(Settler, "add", lambda *_: None)
        world.flush()
    world.send("a", 1)
    world.flush()
    assert ear.received() == [{"flush": 2, "counts": {"a": 6}}]


def test_commit_without_a_reply_publishes_nothing(
    world: World, ear: Ear, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its totals were lost with the reply; the flush is settled, and a log line reports that."""
    world.send("a", 5)
    transact = transaction.commit_flush

    def lose_the_reply(*arguments: Any) -> Any:
        transact(*arguments)
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(transaction, "commit_flush", lose_the_reply)
    world.flush()
    world.assert_all_persisted()
    assert ear.received() == []
    assert "commit_reply_lost seq=1" in caplog.text


def test_the_example_of_the_page_works(world: World, redis_url: str) -> None:
    """The Python subscriber in docs/totals.md, as it stands there, ends up with the totals of the table."""
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(compile(example, str(PAGE), "exec"), namespace)

    def listen() -> None:
        with pytest.raises(redis.ConnectionError):  # its connection is cut at the end of this test
            namespace["listen"](redis_url)

    thread = threading.Thread(target=listen)
    thread.start()
    wait_until(lambda: dict(world.client.pubsub_numsub(CHANNEL)).get(CHANNEL.encode()), 10, "the example subscribes")
    world.send_many(5)
    world.flush()
    world.send_many(3)
    world.flush()
    wait_until(lambda: namespace["totals"] == world.totals(), 10, "the example has received the totals")
    for client in world.client.client_list("pubsub"):
        world.client.client_kill_filter(_id=client["id"])
    thread.join(ENOUGH)
    assert not thread.is_alive()
