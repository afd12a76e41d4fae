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
ASK_SECONDS = 1.0  # for each Sentinel: the next one is asked then

_URL = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://((?P<login>.*)@)?(?P<hosts>[^/?@]+)/(?P<service>[^/?]+)(/(?P<db>\d*))?(?P<options>\?.*)?"
)
_HOST = re.compile(r"(\[(?P<v6>[^\]]+)\]|(?P<name>[^:\[\]]+))(:(?P<port>\d+))?")


def is_sentinel(url: str) -> bool:
    """Whether a URL is of this kind."""
    return re.match(r"\w+\+sentinel://", url) is not None


def sentinel_client(url: str, **options: Any) -> redis.Redis:
    """Return a client of whatever is the primary of the service each time that it connects.

    User and password are Redis's own; the options `sentinel_username`, `sentinel_password` are the Sentinels'. With
    `rediss+sentinel` both are spoken to over TLS. Raises ValueError for a URL that is not understood.
    """
    found = _URL.fullmatch(url)
    hosts = [_HOST.fullmatch(host) for host in found["hosts"].split(",")] if found else []
    if found is None or None in hosts:
        raise ValueError("expected redis+sentinel://host:port,host:port/service/db")
    login = f"{found['login']}@" if found["login"] is not None else ""
    said = parse_url(  # type: ignore[no-untyped-call]  # so in redis-py
        f"{found['scheme']}://{login}sentinel/{found['db'] or 0}{found['options'] or ''}"
    )
    del said["host"]
    tls = said.pop("connection_class", None) is not None
    of_sentinels: dict[str, Any] = {
        name.removeprefix("sentinel_"): said.pop(name) for name in list(said) if name.startswith("sentinel_")
    }
    of_sentinels |= {name: value for name, value in said.items() if name.startswith("ssl_")}
    of_sentinels |= {
        "ssl": tls,
        "socket_timeout": min(options["socket_timeout"], ASK_SECONDS),
        "socket_connect_timeout": min(options["socket_connect_timeout"], ASK_SECONDS),
        "retry": Retry(NoBackoff(), 0),
    }
    addresses = [(host["v6"] or host["name"], int(host["port"] or DEFAULT_PORT)) for host in hosts if host]
    sentinel = Sentinel(addresses, sentinel_kwargs=of_sentinels)  # type: ignore[no-untyped-call]  # so in redis-py
    service = unquote(found["service"])
    client: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]  # likewise
        service, ssl=tls, **options | said
    )
    return client
