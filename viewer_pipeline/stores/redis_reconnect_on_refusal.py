"""Connections that leave a server which refuses writes.

After a failover behind a load balancer or a DNS name, the demoted primary keeps its clients. A connection to it would
get READONLY forever. So it is closed, and the address is resolved again for the next one.
"""

from __future__ import annotations

import functools
import re
import threading
from typing import Any

import redis
from redis.connection import AbstractConnection
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError
from redis.sentinel import SentinelManagedConnection

# Error replies of a server that is a replica, and of one that takes no write for another reason. Redis 6.2 wraps what a
# script got. At the start only: what follows may name keys and arguments.
_REPLY = re.compile(
    r"(?:Error running script .*?: -)?"
    r"(?:(?P<replica>READONLY|MASTERDOWN|UNBLOCKED force unblock)|MISCONF|OOM|NOREPLICAS)\b",
    re.DOTALL,
)
_OF_PIPELINE = " of pipeline caused error: "  # redis-py puts the command in front
_DEMOTION_COUNTER = "demotion_counter"


class ServerDemoted(redis.ConnectionError):
    """The server is a replica. A connection error, so that the client reconnects and sends the command again."""


class DemotionCounter:
    """Shared by the connections of one client: how often a server turned out to be a replica."""

    def __init__(self) -> None:
        self.demotions = 0
        self._lock = threading.Lock()

    def demoted(self) -> None:
        """Count one; older connections are not used any more."""
        with self._lock:
            self.demotions += 1


class _RefusalAwareConnection(AbstractConnection):
    """Closes itself if the server refuses a write, or if another connection detected that it is a replica.

    Only idempotent writes may be sent over it: a pipeline that is refused half-way is sent again from its start.
    """

    def __init__(self, *args: Any, demotion_counter: DemotionCounter, **kwargs: Any) -> None:
        self._demotion_counter, self._known, self._refused = demotion_counter, demotion_counter.demotions, False
        super().__init__(*args, **kwargs)

    def _connect(self) -> Any:
        self._known, self._refused = self._demotion_counter.demotions, False
        return super()._connect()  # type: ignore[no-untyped-call, safe-super]  # so in redis-py

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._refused or self._known != self._demotion_counter.demotions:
            self.disconnect()  # type: ignore[no-untyped-call]  # likewise
        if self._sock is None and isinstance(self, SentinelManagedConnection):
            # When a command is tried again, redis-py would connect to the same server, and ask no Sentinel.
            self.connect_to(self.connection_pool.get_master_address())  # type: ignore[no-untyped-call]
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)
        except redis.RedisError as error:
            # redis-py's connection behind Sentinels makes a vague ConnectionError of READONLY.
            reply = error.__context__ if isinstance(error, redis.ConnectionError) else error
            if is_demotion(reply):
                self._demotion_counter.demoted()
                self.disconnect()  # type: ignore[no-untyped-call]
                raise ServerDemoted(f"it is a replica: {reply}") from error
            # Not here: replies to the rest of a pipeline are still to be read.
            self._refused |= is_write_refusal(error)
            raise


def leave_servers_that_refuse_writes(client: redis.Redis) -> None:
    """Make all connections of a client leave a server that refuses writes."""
    pool = client.connection_pool
    pool.connection_class = _refusal_aware(pool.connection_class)
    pool.connection_kwargs[_DEMOTION_COUNTER] = DemotionCounter()


def demotion_counter_of(client: redis.Redis) -> DemotionCounter:
    """Return the shared state of such a client."""
    demotion_counter: DemotionCounter = client.connection_pool.connection_kwargs[_DEMOTION_COUNTER]
    return demotion_counter


def is_write_refusal(error: BaseException | None) -> bool:
    """Whether a server refuses writes: it is a replica, out of memory, cannot save, or lacks replicas."""
    return isinstance(error, (OutOfMemoryError, ServerDemoted)) or is_demotion(error) or _reply(error) is not None


def is_demotion(error: BaseException | None) -> bool:
    """Whether an error reply means that the server is a replica."""
    if isinstance(error, (ReadOnlyError, MasterDownError)):
        return True
    reply = _reply(error)
    return reply is not None and reply["replica"] is not None


def _reply(error: BaseException | None) -> re.Match[str] | None:
    if not isinstance(error, redis.ResponseError):
        return None
    return _REPLY.match(str(error).rpartition(_OF_PIPELINE)[2])


@functools.cache
def _refusal_aware(base: type[AbstractConnection]) -> type[AbstractConnection]:
    return type(f"RefusalAware{base.__name__}", (_RefusalAwareConnection, base), {})
