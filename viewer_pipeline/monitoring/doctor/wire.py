"""One connection that hears channels and asks for values, both in the order in which Redis did them.

Redis writes messages and answers into one stream: what was published before a value was read comes before the value.
So it is exactly known which messages a counter can, or cannot, have in it.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import hiredis
import redis

from viewer_pipeline.errors import RedisFailed, RedisUnavailable
from viewer_pipeline.stores.redis import redis_errors

READ_BYTES = 1 << 18
ANSWER_SECONDS = 3.0


class Message(NamedTuple):
    """Something that was published."""

    channel: bytes
    payload: bytes


class Wire:
    """A RESP3 connection, in which messages come between answers. Does not heal: then there would be gaps.

    `pattern` is for channels whose subscribers somebody counts: PUBSUB NUMSUB leaves patterns out.
    """

    def __init__(self, client: redis.Redis, url: str, channel: str, pattern: str) -> None:
        self._connection: Any = client.connection_pool.make_connection()
        self._url, self._channel, self._pattern = url, channel, pattern
        self._reader = hiredis.Reader()
        self._heard: list[Message] = []
        self._answers: list[Any] = []

    def open(self) -> None:
        """Connect and subscribe. Raises RedisUnavailable, RedisFailed."""
        with redis_errors(self._url):
            self._connection.connect()
        self._send([("SUBSCRIBE", self._channel), ("PSUBSCRIBE", self._pattern), ("PING",)])
        self._await(1)

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def listen(self, seconds: float) -> list[Message]:
        """Return what was published, waiting up to so long for the first of it. Raises RedisUnavailable."""
        if not self._heard:
            self._receive(seconds)
        return self._taken()

    def ask(self, *commands: tuple[Any, ...]) -> tuple[list[Message], list[Any]]:
        """Run commands at one moment; return what was published before it and not heard yet, and the answers.

        Raises RedisUnavailable, RedisFailed.
        """
        self._send([("MULTI",), *commands, ("EXEC",)])
        answers = self._await(len(commands) + 2)[-1]
        for answer in answers:
            if isinstance(answer, Exception):
                raise RedisFailed(str(answer))
        return self._taken(), list(answers)

    def _taken(self) -> list[Message]:
        heard, self._heard = self._heard, []
        return heard

    def _send(self, commands: list[tuple[Any, ...]]) -> None:
        with redis_errors(self._url):
            self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)

    def _await(self, answers: int) -> list[Any]:
        """Read so many answers. Messages that come after the last of them, in the same read, wait for the next call."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while len(self._answers) < answers:
            if (left := deadline - time.monotonic()) <= 0:
                raise RedisUnavailable(f"no answer within {ANSWER_SECONDS:g} s")
            self._receive(left, answers)
        found, self._answers = self._answers, []
        return found

    def _receive(self, seconds: float, answers: int = 0) -> None:
        if self._parse(answers):
            return
        socket = self._connection._sock  # noqa: SLF001 - redis-py has no public way to read what is waiting
        try:
            socket.settimeout(seconds)
            data = socket.recv(READ_BYTES)
        except TimeoutError:
            return
        except OSError as error:
            raise RedisUnavailable(str(error)) from error
        if not data:
            raise RedisUnavailable("closed by the server")
        self._reader.feed(data)
        self._parse(answers)

    def _parse(self, answers: int) -> bool:
        """Take over what has come, up to so many answers where some are awaited; return whether there was anything."""
        some = False
        while not (answers and len(self._answers) == answers):
            reply = self._reader.gets()
            if reply is False:
                break
            some = True
            self._take(reply)
        return some

    def _take(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            raise RedisFailed(str(reply))
        if not isinstance(reply, hiredis.PushNotification):
            self._answers.append(reply)
        elif reply[0] == b"message":
            self._heard.append(Message(reply[1], reply[2]))
        elif reply[0] == b"pmessage":
            self._heard.append(Message(reply[2], reply[3]))
