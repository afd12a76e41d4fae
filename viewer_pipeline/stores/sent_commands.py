"""Commands of Redis that are sent now and whose replies are received later: Redis works while this process does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import redis
from redis.connection import AbstractConnection


class SentCommands:
    """Commands over one connection. Their replies come in the order in which they were sent."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def over_one_connection(cls, client: redis.Redis) -> Iterator[Self]:
        """Take a connection of the client's pool; close it after an error, because of replies that may still come.

        Nothing is sent again: an error of the connection is raised. Each reply must be received.
        """
        pool = client.connection_pool
        connection: Any = pool.get_connection()
        try:
            yield cls(connection)
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def send(self, *command: str | bytes | int) -> None:
        """Send a command, without the PING of a health check, which would take the next reply."""
        packed = self._connection.pack_command(*command)  # type: ignore[no-untyped-call] # of redis-py
        self._connection.send_packed_command(packed, check_health=False)  # type: ignore[no-untyped-call] # of redis-py

    def receive(self) -> Any:
        """Return the next reply, as Redis sent it. Raises redis-py's errors."""
        return self._connection.read_response()
