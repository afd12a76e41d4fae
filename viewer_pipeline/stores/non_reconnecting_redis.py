"""A client over a single connection that is never made again: everything it reads and writes is on one server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


@contextmanager
def non_reconnecting_client(client: redis.Redis, extra_seconds: float = 0) -> Iterator[redis.Redis]:
    """Open a client like this one over a single connection; once it breaks, every command fails.

    A client that reconnects may reach another server, or an older state: a promoted replica, or the same server after
    a restart. `extra_seconds` are added to its time-out. Not thread-safe.
    """
    pool = client.connection_pool
    options = dict(pool.connection_kwargs)
    options |= {"retry": Retry(NoBackoff(), 0), "redis_connect_func": _Once()}
    if options.get("socket_timeout") is not None:
        options["socket_timeout"] += extra_seconds
    own = redis.ConnectionPool(pool.connection_class, 1, **options)
    try:
        yield redis.Redis(connection_pool=own)
    finally:
        own.disconnect()


class _Once:
    """The hook of redis-py for a new connection: greets the server the first time, refuses the second."""

    def __init__(self) -> None:
        self._made = False

    def __call__(self, connection: Any) -> None:
        if self._made:
            raise redis.ConnectionError("the connection broke between settling and the last read of the counters")
        self._made = True
        connection.on_connect()
