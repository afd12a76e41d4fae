"""Commands whose replies are received later: in order, and none is left for another command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.stores.sent_commands import SentCommands
from viewer_pipeline_tests.support.world import PREFIX, World


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client with one connection, which is checked before each command that checks it."""
    with redis.Redis.from_url(redis_url, max_connections=1, health_check_interval=1e-9) as client:
        yield client


def test_replies_come_in_order(client: redis.Redis) -> None:
    """One for each command, also when all were sent before."""
    with SentCommands.over_one_connection(client) as commands:
        for number in range(100):
            commands.send("ECHO", number)
        assert [commands.receive() for _ in range(100)] == [str(number).encode() for number in range(100)]
    assert client.echo("next") == b"next"


def test_after_an_error_no_reply_is_left(client: redis.Redis) -> None:
    """Replies that may still come are those of a connection that is closed."""

    def receive_first() -> None:
        with SentCommands.over_one_connection(client) as commands:
            commands.send("ECHO")
            commands.send("ECHO", "second")
            commands.receive()

    with pytest.raises(redis.ResponseError):
        receive_first()
    assert client.echo("next") == b"next"


def test_a_reader_that_stops_leaves_no_reply(world: World, redis_url: str, client: redis.Redis) -> None:
    """Of a scan, whose next call was sent already."""
    world.send_many(2000)
    store = RedisStore(client, redis_url, PREFIX)
    pages: Any = store.scan_ahead(0, 10_000)
    next(pages)
    pages.close()
    assert client.echo("next") == b"next"


def test_a_scan_ends_at_its_limit(world: World, redis_url: str, client: redis.Redis) -> None:
    """It returns where to continue, and nothing is left out or repeated."""
    world.send_many(2000)
    store = RedisStore(client, redis_url, PREFIX)
    *_, (cursor, _) = first = list(store.scan_ahead(0, 700))
    assert 700 <= sum(len(ids) for _, ids in first) < 2000
    rest = list(store.scan_ahead(cursor, 10_000))
    assert rest[-1][0] == 0
    assert sorted(raw for _, ids in first + rest for raw in ids) == sorted(name.encode() for name in world.sent)
