"""A subscription that returns all waiting messages at once, and notices when its connection is dead."""

from __future__ import annotations

import time
from typing import Any

import hiredis
import redis

from viewer_pipeline.ingest.subscriber_stats import Loss

READ_BYTES = 1 << 18
PING_SECONDS = 2.0  # silence after which a PING is sent
DEAD_SECONDS = 4.0  # how long its reply may take
GRACE_SECONDS = 3.0  # for a cut to arrive by way of a primary's replica

Message = tuple[bytes, bytes]  # channel, payload


class SubscriptionLost(Exception):
    """The connection is gone, silent, or on another server; messages may have been missed."""

    def __init__(self, how: Loss, message: str) -> None:
        super().__init__(message)
        self.how: Loss = how


class Subscription:
    """One connection, subscribed to some channels. Lives until it is lost; then make another.

    redis-py's own PubSub returns one message a call, and reconnects without a notice: both are wrong here.
    """

    def __init__(self, client: redis.Redis, channels: list[str], *, cluster: bool = False) -> None:
        # In RESP2 messages are plain arrays; the rest of the connection (TLS, login) is redis-py's.
        self._connection: Any = client.connection_pool.make_connection()
        self._channels, self._cluster = channels, cluster
        self.node = ""  # of a cluster: the id of the node that it is connected to
        self._reader = hiredis.Reader()
        self._last_received = time.monotonic()
        self._pinged: float | None = None  # when a PING was sent that has no reply yet
        self._confirmed = 0  # channels
        self._numbered_pings = self._replied = 0  # sent, and the last one whose reply was read
        self._early: list[Message] = []  # messages that came before the last confirmation

    def open(self) -> None:
        """Connect and subscribe; from then on the messages of all channels arrive.

        Raises redis.RedisError, SubscriptionLost.
        """
        self._connection.connect()
        if self._cluster:
            self._connection.send_command("CLUSTER", "MYID", check_health=False)
            self.node = self._connection.read_response().decode()
        self._connection.send_command("SUBSCRIBE", *self._channels, check_health=False)
        self._last_received = time.monotonic()
        while self._confirmed < len(self._channels):
            self._early = self.read_messages(PING_SECONDS)  # includes the earlier ones: each once

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from one channel; messages on their way still arrive. Raises SubscriptionLost."""
        self._send("UNSUBSCRIBE", channel)

    def send_numbered_ping(self) -> int:
        """Send a PING, which the server answers behind all messages that it has for us by then; return its number.

        Raises SubscriptionLost.
        """
        self._numbered_pings += 1
        self._send("PING", str(self._numbered_pings))
        return self._numbered_pings

    def has_reply_to(self, ping: int) -> bool:
        """Whether the reply to this PING was read, and so all messages before it."""
        return self._replied >= ping

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def read_messages(self, timeout: float) -> list[Message]:
        """Return all waiting messages; wait up to `timeout` seconds for the first. Raises SubscriptionLost."""
        messages, self._early = self._early, []
        if data := self._read_bytes(timeout):
            self._reader.feed(data)
            try:
                self._parse_replies_into(messages)
            except hiredis.ProtocolError as error:  # no Redis there, or a proxy that corrupts its replies
                raise SubscriptionLost("error", str(error)) from error
        return messages

    def _parse_replies_into(self, messages: list[Message]) -> None:
        gets = self._reader.gets
        while (reply := gets()) is not False:
            if isinstance(reply, Exception):
                raise SubscriptionLost("error", str(reply))
            if reply[0] == b"message":
                messages.append((reply[1], reply[2]))
            elif reply[0] == b"subscribe":
                self._confirmed += 1
            elif reply[0] == b"pong" and reply[1]:
                self._replied = int(reply[1])

    def _read_bytes(self, timeout: float) -> bytes:
        socket = self._connection._sock  # noqa: SLF001 - redis-py has no public way to read what is waiting
        if socket is None:
            raise SubscriptionLost("closed", "closed")
        try:
            socket.settimeout(timeout)
            data = bytes(socket.recv(READ_BYTES))
        except TimeoutError:
            self._ping_or_raise_if_silent()
            return b""
        except OSError as error:
            raise SubscriptionLost("closed", str(error)) from error
        if not data:
            raise SubscriptionLost("closed", "closed by the server")
        self._last_received, self._pinged = time.monotonic(), None
        return data

    def _ping_or_raise_if_silent(self) -> None:
        """Send a PING after some silence. A reply that came while nobody read is waiting, and would be read first."""
        now = time.monotonic()
        if self._pinged is None:
            if now - self._last_received > PING_SECONDS:
                self._pinged = now
                self._send("PING")
        elif now - self._pinged > DEAD_SECONDS:
            raise SubscriptionLost("silent", f"no sign of life for {now - self._last_received:.0f} s")

    def _send(self, *command: str) -> None:
        try:
            self._connection.send_command(*command, check_health=False)
        except redis.RedisError as error:
            raise SubscriptionLost("closed", str(error)) from error


class CutMessageArrivalCheck:
    """Whether the cuts that Redis publishes arrive on one subscription.

    Commands and the subscription are two connections, which may lead to two servers: the address was resolved at
    different times. Then the worker is subscribed where nobody publishes any more, and its views never get the number
    of a segment. A backlog, however long, is never taken for that: the server answers a PING behind earlier messages.
    """

    def __init__(self) -> None:
        self._number = 0  # of the expected cut; 0: none
        self._due = 0.0
        self._ping = 0  # 0: none
        self._folded: int | None = None

    def expect_cut_message(self, number: int) -> None:
        """Expect this cut, which was published since the subscription began, unless another is expected."""
        if not self._number:
            self._number, self._due, self._ping = number, time.monotonic() + GRACE_SECONDS, 0

    def expect_cut_message_of_folded_segment(self, number: int) -> None:
        """Expect the cut of this segment, where the holder of the lease folded it since the last call."""
        if self._folded is not None and number > self._folded:
            self.expect_cut_message(number)
        self._folded = number

    def raise_if_cut_did_not_arrive(self, subscription: Subscription, last_cut: int) -> None:
        """Compare with the last received cut. Raises SubscriptionLost."""
        if not self._number:
            return
        if last_cut >= self._number:
            self._number = 0
        elif self._ping:
            if subscription.has_reply_to(self._ping):
                reason = f"the subscription is on another server than the commands: no cut {self._number} arrived"
                raise SubscriptionLost("moved", reason)
        elif time.monotonic() >= self._due:
            self._ping = subscription.send_numbered_ping()
