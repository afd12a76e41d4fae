"""A Redis URL, with parameters as redis-py, Celery and other clients write them, as parameters for our client. Pure.

The only source of connection parameters (docs/how-to/connection-strings.md lists them).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Self
from urllib.parse import unquote, unquote_plus

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.redaction import is_secret
from viewer_pipeline.redis_url_values import PARAMETERS, SENTINEL_PARAMETERS, TLS_PARAMETERS

REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
EXPECTED = f"expected a URL that starts with {' or '.join(scheme + '://' for scheme in REDIS_SCHEMES)}"
EXPECTED_CLUSTER = "expected redis+cluster://host:port,host:port without a database: a cluster has none but 0"
EXPECTED_SERVICE = "expected redis+sentinel://host:port,host:port/service/db, the db a number or left out"
ALIASES = {"virtual_host": "db", "database": "db", "tls": "ssl"}
# Parameters of connection pools, retries, and replies as text, by client. Any value is accepted: we have none, or ours.
_IGNORED_BY_CLIENT = {
    "redis-py, Celery": "charset decode_responses encoding encoding_errors errors health_check_interval"
    " legacy_responses lib_name lib_version max_connections protocol retry_on_error retry_on_timeout"
    " single_connection_client socket_keepalive socket_read_size timeout",
    "ioredis": "allowUsernameInURI autoResubscribe commandTimeout connectTimeout connectionName enableAutoPipelining"
    " enableOfflineQueue enableReadyCheck family keepAlive lazyConnect maxRetriesPerRequest noDelay",
    "Sidekiq": "driver network_timeout pool_size pool_timeout reconnect_attempts size",
    "go-redis": "conn_max_idle_time conn_max_lifetime dial_timeout max_active_conns max_idle_conns max_retries"
    " max_retry_backoff min_idle_conns min_retry_backoff pool_fifo read_timeout write_timeout",
}
IGNORED = frozenset(name for names in _IGNORED_BY_CLIENT.values() for name in names.split())
INSTEAD = {  # parameters of other clients that would change what is counted, or whom we trust
    **dict.fromkeys(("keyPrefix", "prefix", "namespace", "global_keyprefix"), "COUNTER_PREFIX with that prefix in it"),
    **dict.fromkeys(
        ("rejectUnauthorized", "skip_verify", "verifyPeer"), "ssl_cert_reqs=none or ssl_cert_reqs=required"
    ),
    **dict.fromkeys(("ssl_validate_ocsp", "ssl_validate_ocsp_stapled"), "no check by OCSP, which is not supported"),
}

_URL = re.compile(
    r"(?P<scheme>redis(?P<tls>s?)(?:(?P<sentinel>\+sentinel)|(?P<cluster>\+cluster))?|unix)://"
    r"(?:(?P<login>[^/?]*)@)?(?P<address>[^/?@]*)"
    r"(?P<path>/[^?]*)?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_HOST = re.compile(r"(\[(?P<v6>[^\]]+)\]|(?P<name>[^:\[\]]*))(:(?P<port>\d{0,5}))?", re.ASCII)
_NAME = re.compile(r"[A-Za-z][\w.-]{0,40}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class RedisUrl:
    """A parsed URL. `ignored`: names of parameters that are accepted and do nothing."""

    # Host and port of Redis, of each Sentinel, or of some nodes of a cluster; none for a Unix socket
    addresses: tuple[tuple[str, int], ...]
    socket_path: str
    service: str  # that the Sentinels monitor; empty without them
    cluster: bool  # whether Redis is in cluster mode
    tls: bool
    parameters: Mapping[str, Any] = field(repr=False)  # redis-py's: db, username, password, client_name, ssl_*
    sentinel_parameters: Mapping[str, Any] = field(repr=False)  # redis-py's for the Sentinels: their login
    reply_seconds: float | None  # time-out of a reply
    connect_seconds: float | None
    ignored: tuple[str, ...]

    @classmethod
    def of(cls, url: str) -> Self:
        """Parse a URL. Raises ValueError, whose message cites no part that may be secret."""
        match = _URL.fullmatch(url)
        if match is None:
            raise ValueError(EXPECTED)
        path, query = match["path"] or "", match["query"] or ""
        written = _split_query(query)
        if "@" in path or ("@" in query and not all(map(_is_known, written))):
            raise ValueError("expected @, / and ? in user, password and parameters to be written as %40, %2F and %3F")
        sentinel, cluster, tls = bool(match["sentinel"]), bool(match["cluster"]), bool(match["tls"])
        socket_path, service, database = _parse_socket_service_and_database(match)
        addresses = tuple(_addresses(match["address"], sentinel=sentinel, cluster=cluster)) if not socket_path else ()
        values: dict[str, Any] = {"db": int(database)} if database else {}
        for name, text in written.items():
            value = _parse_value(name, text, tls=tls, sentinel=sentinel)
            if values.setdefault(ALIASES.get(name, name), value) != value:
                raise ValueError(f"{name}={text!r}: expected one {ALIASES.get(name, name)}, not two that differ")
        if cluster and values.get("db"):
            raise ValueError(f"db={values['db']}: {EXPECTED_CLUSTER}")
        if "ssl_keyfile" in values and "ssl_certfile" not in values:
            raise ValueError("ssl_keyfile: expected ssl_certfile with it")
        if "ssl_certfile" in values:
            values.setdefault("ssl_password", "")  # else OpenSSL would ask for it on the terminal, and wait
        parameters = {name: values[name] for name in ("db", "client_name", *TLS_PARAMETERS) if name in values}
        return cls(
            addresses,
            socket_path,
            service,
            cluster,
            tls,
            {**parameters, **_login(match["login"], values)},
            {name.removeprefix("sentinel_"): values[name] for name in SENTINEL_PARAMETERS if name in values},
            values.get("socket_timeout"),
            values.get("socket_connect_timeout"),
            tuple(name for name in written if name in IGNORED),
        )

    @property
    def database(self) -> int:
        """Number of the database."""
        return int(self.parameters.get("db", 0))


def _parse_socket_service_and_database(match: re.Match[str]) -> tuple[str, str, str]:
    """Return the path of the Unix socket, the service of the Sentinels, and the number of the database as text."""
    path = match["path"] or ""
    if match["scheme"] == "unix":
        if match["address"] or len(path) < 2 or _CONTROL.search(unquote(path)):
            raise ValueError("expected unix:///path/redis.sock?db=0")
        return unquote(path), "", ""
    if match["sentinel"]:
        parts = re.fullmatch(r"/([^/]+)(?:/([0-9]{0,9}))?", path)
        if parts is None or not match["address"] or _CONTROL.search(unquote(parts[1])):
            raise ValueError(EXPECTED_SERVICE)
        return "", unquote(parts[1]), parts[2] or ""
    number = re.fullmatch(r"/?([0-9]{0,9})/?", path)
    if number is None:
        raise ValueError("expected the number of a database after the host, such as redis://host:6379/0")
    return "", "", number[1]


def _addresses(text: str, *, sentinel: bool, cluster: bool) -> list[tuple[str, int]]:
    """Return hosts and ports. Raises ValueError, also for a name that cannot be looked up."""
    hosts = [_HOST.fullmatch(host) for host in text.split(",")]
    if len(hosts) > 1 and not (sentinel or cluster):
        raise ValueError(
            "expected one host; several only in redis+sentinel://host:port,host:port/service"
            " and redis+cluster://host:port,host:port"
        )
    addresses = []
    for host in hosts:
        name = unquote(host["v6"] or host["name"] or "localhost") if host else ""
        port = int(host["port"] or (26379 if sentinel else 6379)) if host else 0
        try:
            name.encode("idna")
        except UnicodeError:
            name = ""
        if not name or _CONTROL.search(name) or not 1 <= port <= 65535:
            raise ValueError("expected a host name or an address, and a port between 1 and 65535 if any")
        addresses.append((name, port))
    return addresses


def _split_query(query: str) -> dict[str, str]:
    """Return the parameters that have a value: name -> value, decoded."""
    written, after_secret = dict[str, str](), False
    for parameter in filter(None, query.split("&")):
        key, equals, value = parameter.partition("=")
        name, value = unquote_plus(key), unquote_plus(value)
        if not equals or not _NAME.fullmatch(name) or (after_secret and not _is_known(name)):
            raise ValueError("expected name=value for each parameter (write & in a value as %26)")
        if value and written.setdefault(name, value) != value:
            raise ValueError(f"expected one value of {name}, not two that differ")
        after_secret = is_secret(name)
    return written


def _is_known(name: str) -> bool:
    return ALIASES.get(name, name) in PARAMETERS or name in IGNORED


def _parse_value(name: str, text: str, *, tls: bool, sentinel: bool) -> Any:
    """Return the value of a parameter. Raises ValueError with its name, its value and what is expected."""
    cited = f"{name}={'***' if is_secret(name) else text[:80]!r}"
    if name in INSTEAD:
        raise ValueError(f"{cited}: expected {INSTEAD[name]} instead of this parameter")
    if not _is_known(name):
        near = get_close_matches(name, PARAMETERS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"{cited}: expected a parameter that `{command_to_type('docs connection-strings')}` lists{meant}"
        )
    if name in TLS_PARAMETERS and not tls:
        raise ValueError(f"{cited}: expected rediss:// with it, redis:// uses no TLS")
    if name in SENTINEL_PARAMETERS and not sentinel:
        raise ValueError(f"{cited}: expected redis+sentinel:// with it")
    try:
        value = PARAMETERS.get(ALIASES.get(name, name), str)(text)
    except ValueError as error:
        raise ValueError(f"{cited}: expected {error}") from None
    if name in ("ssl", "tls") and value != tls:
        raise ValueError(f"{cited}: expected {'rediss://' if value else 'redis://'} instead of this parameter")
    return value


def _login(login: str | None, values: Mapping[str, Any]) -> dict[str, str]:
    """Return user and password of the authority, or else of the parameters."""
    user, _, password = (login or "").partition(":")
    written = {"username": unquote(user), "password": unquote(password)}
    return {name: text or values.get(name, "") for name, text in written.items() if text or values.get(name)}


def is_cluster_url(url: str) -> bool:
    """Whether a URL names a Redis in cluster mode."""
    match = _URL.fullmatch(url)
    return match is not None and bool(match["cluster"])
