"""Redis behind Sentinels: `redis+sentinel://[user:password@]host:port,host:port/service/db?option=value`."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

DEFAULT_PORT = 26379
SENTINEL_SECONDS = 1.0  # time-out of each Sentinel; then the next one is queried

_URL = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://((?P<login>.*)@)?(?P<hosts>[^/?@]+)/(?P<service>[^/?]+)(/(?P<db>\d*))?(?P<options>\?.*)?"
)
_HOST = re.compile(r"(\[(?P<v6>[^\]]+)\]|(?P<name>[^:\[\]]+))(:(?P<port>\d+))?")


def is_sentinel(url: str) -> bool:
    """Whether a URL names Sentinels."""
    return re.match(r"\w+\+sentinel://", url) is not None


def sentinel_client(url: str, **options: Any) -> redis.Redis:
    """Return a client of the service that connects to its current primary each time.

    User and password are for Redis; the options `sentinel_username`, `sentinel_password` are for the Sentinels. With
    `rediss+sentinel` both connections use TLS. Raises ValueError for a URL that cannot be parsed.
    """
    match = _URL.fullmatch(url)
    hosts = [_HOST.fullmatch(host) for host in match["hosts"].split(",")] if match else []
    if match is None or None in hosts:
        raise ValueError("expected redis+sentinel://host:port,host:port/service/db")
    login = f"{match['login']}@" if match["login"] is not None else ""
    parameters = parse_url(  # type: ignore[no-untyped-call]  # so in redis-py
        f"{match['scheme']}://{login}sentinel/{match['db'] or 0}{match['options'] or ''}"
    )
    del parameters["host"]
    tls = parameters.pop("connection_class", None) is not None
    sentinel_parameters: dict[str, Any] = {
        name.removeprefix("sentinel_"): parameters.pop(name)
        for name in list(parameters)
        if name.startswith("sentinel_")
    }
    sentinel_parameters |= {name: value for name, value in parameters.items() if name.startswith("ssl_")}
    sentinel_parameters |= {
        "ssl": tls,
        "socket_timeout": min(options["socket_timeout"], SENTINEL_SECONDS),
        "socket_connect_timeout": min(options["socket_connect_timeout"], SENTINEL_SECONDS),
        "retry": Retry(NoBackoff(), 0),
    }
    addresses = [(host["v6"] or host["name"], int(host["port"] or DEFAULT_PORT)) for host in hosts if host]
    sentinel = Sentinel(addresses, sentinel_kwargs=sentinel_parameters)  # type: ignore[no-untyped-call]  # so in redis-py
    service = unquote(match["service"])
    client: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]  # likewise
        service, ssl=tls, **options | parameters
    )
    return client
