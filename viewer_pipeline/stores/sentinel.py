"""A client of a Redis behind Sentinels."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from viewer_pipeline.redis_url import RedisUrl
from viewer_pipeline.stores.optional_redis_client_name import name_connections_where_allowed

SENTINEL_SECONDS = 1.0  # time-out of each Sentinel; then the next one is queried


def sentinel_client(url: RedisUrl, options: dict[str, Any]) -> redis.Redis:
    """Return a client of the service that connects to its current primary each time. `options`: of its connections.

    User and password are for Redis; the Sentinels have their own. With TLS, both kinds of connections use it.

    Connections to Sentinels name themselves, too. Without any command after the handshake, redis-py takes the session
    tickets that a server sends then (TLS 1.3) for an unread reply, and gives the connection up.
    """
    sentinel_options = {
        **{name: value for name, value in options.items() if name.startswith("ssl_")},
        **url.sentinel_parameters,
        "ssl": url.tls,
        "client_name": options["client_name"],
        "protocol": options["protocol"],
        "driver_info": None,
        "socket_timeout": min(options["socket_timeout"], SENTINEL_SECONDS),
        "socket_connect_timeout": min(options["socket_connect_timeout"], SENTINEL_SECONDS),
        "retry": Retry(NoBackoff(), 0),
    }
    sentinel = Sentinel(url.addresses, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]  # so in redis-py
    for queried in sentinel.sentinels:
        name_connections_where_allowed(queried)
    client: redis.Redis = sentinel.master_for(url.service, ssl=url.tls, **options)  # type: ignore[no-untyped-call]
    return client
