"""A subscription that hands over what is waiting, all at once, and notices when it is dead."""

from __future__ import annotations

import time
from typing import Any

import hiredis
import redis

READ_BYTES = 1 << 18
PING_SECONDS = 2.0  # silence after which the server is asked for a sign of life
DEAD_SECONDS = 6.0  # silence after which the connection counts as lost


class SubscriptionLost(Exception):
    """The connection is gone, or gave no sign of life; messages may have been missed."""


class Subscription:
    """One connection, subscribed to some channels. Lives until it is lost; then make another.

    redis-py's own PubSub hands out one message a call, and heals itself without saying so: both are wrong here.
    """

    def __init__(self, client: redis.Redis, channels: list[str]) -> None:
        # RESP2, in which messages are plain arrays; the rest of the connection (TLS, login) is redis-py's.
        self._connection: Any = client.connection_pool.make_connection()
        self._channels = channels
        self._reader = hiredis.Reader()
        self._heard = time.monotonic()
        self._pinged = False

    def open(self) -> None:
        """Connect and subscribe. Raises redis.RedisError."""
        self._connection.connect()
        self._connection.send_command("SUBSCRIBE", *self._channels, check_health=False)
        self._heard = time.monotonic()

    def unsubscribe(self, channel: str) -> None:
        """Hear no more of one channel; what is on its way still arrives. Raises SubscriptionLost."""
        try:
            self._connection.send_command("UNSUBSCRIBE", channel, check_health=False)
        except redis.RedisError as error:
            raise SubscriptionLost(str(error)) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def read(self, timeout: float) -> list[tuple[bytes, bytes]]:
        """Return (channel, payload) of all messages that are waiting; wait up to `timeout` seconds for the first.

        Raises SubscriptionLost.
        """
        messages: list[tuple[bytes, bytes]] = []
        if data := self._receive(timeout):
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                if isinstance(reply, Exception):
                    raise SubscriptionLost(str(reply))
                if reply[0] == b"message":
                    messages.append((reply[1], reply[2]))
        return messages

    def _receive(self, timeout: float) -> bytes:
        socket = self._connection._sock  # noqa: SLF001 - redis-py has no public way to read what is waiting
        if socket is None:
            raise SubscriptionLost("closed")
        try:
            socket.settimeout(timeout)
            data = bytes(socket.recv(READ_BYTES))
        except TimeoutError:
            self._ask_for_life()
            return b""
        except OSError as error:
            raise SubscriptionLost(str(error)) from error
        if not data:
            raise SubscriptionLost("closed by the server")
        self._heard, self._pinged = time.monotonic(), False
        return data

    def _ask_for_life(self) -> None:
        silence = time.monotonic() - self._heard
        if silence > DEAD_SECONDS:
            raise SubscriptionLost(f"no sign of life for {silence:.0f} s")
        if silence > PING_SECONDS and not self._pinged:
            self._pinged = True
            try:
                self._connection.send_command("PING", check_health=False)
            except redis.RedisError as error:
                raise SubscriptionLost(str(error)) from error
