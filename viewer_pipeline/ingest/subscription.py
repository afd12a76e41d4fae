"""A subscription that hands over what is waiting, all at once, and notices when it is dead."""

from __future__ import annotations

import time
from typing import Any

import hiredis
import redis

from viewer_pipeline.ingest.stats import Loss

READ_BYTES = 1 << 18
PING_SECONDS = 2.0  # silence after which the server is asked for a sign of life
DEAD_SECONDS = 4.0  # how long it may take to give one


class SubscriptionLost(Exception):
    """The connection is gone, gave no sign of life, or is on another server; messages may have been missed."""

    def __init__(self, how: Loss, said: str) -> None:
        super().__init__(said)
        self.how: Loss = how


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
        self._asked: float | None = None  # when a sign of life was asked for
        self._confirmed = 0  # channels
        self.echoed = 0  # the number of the last `ping` that was answered
        self._early: list[tuple[bytes, bytes]] = []  # messages that came before the last confirmation

    def open(self) -> None:
        """Connect and subscribe; from then on the messages of all channels arrive.

        Raises redis.RedisError, SubscriptionLost.
        """
        self._connection.connect()
        self._connection.send_command("SUBSCRIBE", *self._channels, check_health=False)
        self._heard = time.monotonic()
        while self._confirmed < len(self._channels):
            self._early = self.read(PING_SECONDS)  # with those that came earlier still: once each

    def unsubscribe(self, channel: str) -> None:
        """Hear no more of one channel; what is on its way still arrives. Raises SubscriptionLost."""
        self._send("UNSUBSCRIBE", channel)

    def ping(self, number: int) -> None:
        """Ask the server to echo a number, behind all messages that it has for us by then. Raises SubscriptionLost."""
        self._send("PING", str(number))

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def read(self, timeout: float) -> list[tuple[bytes, bytes]]:
        """Return (channel, payload) of all messages that are waiting; wait up to `timeout` seconds for the first.

        Raises SubscriptionLost.
        """
        messages, self._early = self._early, []
        if data := self._receive(timeout):
            self._reader.feed(data)
            try:
                self._take(messages)
            except hiredis.ProtocolError as error:  # no Redis there, or something in between that meddles
                raise SubscriptionLost("error", str(error)) from error
        return messages

    def _take(self, messages: list[tuple[bytes, bytes]]) -> None:
        gets = self._reader.gets
        while (reply := gets()) is not False:
            if isinstance(reply, Exception):
                raise SubscriptionLost("error", str(reply))
            if reply[0] == b"message":
                messages.append((reply[1], reply[2]))
            elif reply[0] == b"subscribe":
                self._confirmed += 1
            elif reply[0] == b"pong" and reply[1]:
                self.echoed = int(reply[1])

    def _receive(self, timeout: float) -> bytes:
        socket = self._connection._sock  # noqa: SLF001 - redis-py has no public way to read what is waiting
        if socket is None:
            raise SubscriptionLost("closed", "closed")
        try:
            socket.settimeout(timeout)
            data = bytes(socket.recv(READ_BYTES))
        except TimeoutError:
            self._ask_for_life()
            return b""
        except OSError as error:
            raise SubscriptionLost("closed", str(error)) from error
        if not data:
            raise SubscriptionLost("closed", "closed by the server")
        self._heard, self._asked = time.monotonic(), None
        return data

    def _ask_for_life(self) -> None:
        """Ask after some silence. An answer that came while nobody read is waiting, and would have been read first."""
        now = time.monotonic()
        if self._asked is None:
            if now - self._heard > PING_SECONDS:
                self._asked = now
                self._send("PING")
        elif now - self._asked > DEAD_SECONDS:
            raise SubscriptionLost("silent", f"no sign of life for {now - self._heard:.0f} s")

    def _send(self, *command: str) -> None:
        try:
            self._connection.send_command(*command, check_health=False)
        except redis.RedisError as error:
            raise SubscriptionLost("closed", str(error)) from error
