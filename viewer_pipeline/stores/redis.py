"""The Redis client, its errors as ours, and Lua scripts sent by their hash."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1
from importlib import resources
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import AskError, AuthenticationError, AuthorizationError, NoScriptError, RedisError
from redis.retry import Retry

from viewer_pipeline.errors import RedisFailed, RedisRefusesWrites, RedisUnavailable, SettingsError
from viewer_pipeline.redaction import redact_text, redact_url
from viewer_pipeline.redis_url import RedisUrl, is_cluster_url
from viewer_pipeline.stores.cluster_map import home_client
from viewer_pipeline.stores.command_packer import CommandPacker
from viewer_pipeline.stores.known_errors import find_known_error
from viewer_pipeline.stores.known_redis_errors import REDIS_ERRORS
from viewer_pipeline.stores.optional_redis_client_name import name_connections_where_allowed, naming
from viewer_pipeline.stores.redis_reconnect_on_refusal import is_write_refusal, leave_servers_that_refuse_writes
from viewer_pipeline.stores.sentinel import sentinel_client

CLIENT_NAME = "viewer-pipeline"
COMMAND_SECONDS = 5.0  # time-out of a reply
START_SECONDS = 3.0  # time-out at the start of a process, and of connecting
_PACKER = CommandPacker()
_OUT_OF_REACH = re.compile(r"\b(LOADING|BUSY|CLUSTERDOWN|UNKILLABLE|UNBLOCKED|ASK|TRYAGAIN)\b")


def connect(url: str, *, seconds: float | None = None, retries: int = 3) -> redis.Redis:
    """Return a client with a time-out of `seconds` per reply and `retries` further attempts. Connects when used.

    Without `seconds`, the time-out is that of the URL, else COMMAND_SECONDS. Behind Sentinels it connects to the
    primary, and queries them for each new connection. A connection to a server that refuses writes is closed; if that
    is a replica, the command is sent again over a new one. Raises SettingsError for a URL that cannot be used.
    """
    try:
        parsed = RedisUrl.of(url)
    except ValueError as error:
        raise SettingsError(f"REDIS_URL={redact_url(url)!r}: {error}") from None
    reply_seconds = seconds or parsed.reply_seconds or COMMAND_SECONDS
    options: dict[str, Any] = {
        "client_name": CLIENT_NAME,
        **parsed.parameters,
        "protocol": 2,  # without HELLO, which old servers and proxies do not have
        "driver_info": None,  # no CLIENT SETINFO, likewise
        "command_packer": _PACKER,
        "socket_timeout": reply_seconds,
        "socket_connect_timeout": min(reply_seconds, parsed.connect_seconds or START_SECONDS),
        "health_check_interval": 30,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=retries),
    }
    if parsed.cluster:
        client = home_client(parsed.addresses, naming(SSLConnection if parsed.tls else Connection), options)
    else:
        client = sentinel_client(parsed, options) if parsed.service else redis.Redis.from_pool(_pool(parsed, options))
        name_connections_where_allowed(client)
    leave_servers_that_refuse_writes(client)
    return client


def _pool(url: RedisUrl, options: dict[str, Any]) -> redis.ConnectionPool:
    if url.socket_path:
        return redis.ConnectionPool(UnixDomainSocketConnection, path=url.socket_path, **options)
    ((host, port),) = url.addresses
    return redis.ConnectionPool(SSLConnection if url.tls else Connection, host=host, port=port, **options)


def require_reply(url: str) -> None:
    """Check that Redis replies, before work that waits longer for each reply. Raises RedisUnavailable, RedisFailed."""
    with connect(url, seconds=START_SECONDS, retries=0) as client, redis_errors(url):
        client.ping()


@contextmanager
def redis_errors(url: str) -> Iterator[None]:
    """Raise redis-py's errors as ours: what may be retried, and what needs a person."""
    try:
        yield
    except RedisError as error:
        raise as_ours(error, url) from error


def as_text(raw: bytes | None) -> str:
    """Return bytes of Redis as text, invalid UTF-8 escaped; None as an empty text."""
    return (raw or b"").decode("utf-8", "backslashreplace")


def as_ours(error: RedisError, url: str, part: str = "") -> Exception:
    """Return an error of redis-py, of the Redis at this URL, as ours. `part`: of a cluster, such as its node."""
    where = redact_text(url) + (part and f", {part}")
    line = str(error).partition("\n")[0]
    if isinstance(error, AskError):  # or MovedError; redis-py removes the word
        line = f"the slot has moved: {line}" if is_cluster_url(url) else f"MOVED {line}"
    message = f"{where}: {line}"
    if is_write_refusal(error):
        return RedisRefusesWrites(message)
    if (known := find_known_error(REDIS_ERRORS, line)) is not None:
        return known[0].build_error(where, redact_text(line), known[1])
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return RedisFailed(message)
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)) or _OUT_OF_REACH.search(str(error)):
        return RedisUnavailable(message)
    return RedisFailed(message)


@dataclass(frozen=True)
class Script:
    """A Lua script, sent by its hash."""

    source: str
    sha: str

    @classmethod
    def load(cls, *names: str) -> Script:
        """Read `<package>/<script>` from the `lua/` of that package; several are concatenated."""
        parts = [name.partition("/") for name in names]
        files = [
            resources.files("viewer_pipeline").joinpath(package, "lua", f"{script}.lua") for package, _, script in parts
        ]
        source = "".join(file.read_text(encoding="utf-8") for file in files)
        return cls(source, sha1(source.encode()).hexdigest())  # noqa: S324 - Redis names scripts by SHA-1

    def run(self, client: redis.Redis, keys: Sequence[str | bytes], arguments: Sequence[str | bytes | int]) -> Any:
        """Run it. Raises the errors of the driver."""
        try:
            return client.evalsha(self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return client.eval(self.source, len(keys), *keys, *arguments)
