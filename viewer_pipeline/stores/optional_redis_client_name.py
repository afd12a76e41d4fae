"""Connections that name themselves in CLIENT LIST, where they may: behind a proxy there may be no CLIENT."""

from __future__ import annotations

import functools
from contextlib import suppress

import redis
from redis.connection import AbstractConnection


class _NamesItself(AbstractConnection):
    def on_connect_check_health(self, check_health: bool = True) -> None:
        name, self.client_name = self.client_name, None  # redis-py would fail where CLIENT is refused
        try:
            super().on_connect_check_health(check_health)
        finally:
            self.client_name = name
        with suppress(redis.ResponseError):
            self.send_command("CLIENT", "SETNAME", name, check_health=False)  # type: ignore[no-untyped-call]
            self.read_response()


def name_connections_where_allowed(client: redis.Redis) -> None:
    """Make all connections of a client send their name, and work without CLIENT SETNAME."""
    pool = client.connection_pool
    pool.connection_class = naming(pool.connection_class)


@functools.cache
def naming(base: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return this class of connections with the name sent where that is allowed."""
    return type(f"Naming{base.__name__}", (_NamesItself, base), {})
