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
from redis.exceptions import AuthenticationError, AuthorizationError, NoScriptError, RedisError
from redis.retry import Retry

from viewer_pipeline.errors import RedisFailed, RedisRefusesWrites, RedisUnavailable, SettingsError
from viewer_pipeline.redaction import redact_text, redact_url
from viewer_pipeline.stores.sentinel import is_sentinel, sentinel_client
from viewer_pipeline.stores.write_refusals import is_write_refusal, leave_servers_that_refuse_writes

START_SECONDS = 3.0  # time-out at the start of a process
_OUT_OF_REACH = re.compile(r"\b(LOADING|BUSY|CLUSTERDOWN|UNKILLABLE|UNBLOCKED)\b")


def connect(url: str, *, protocol: int = 3, seconds: float = 5, retries: int = 3) -> redis.Redis:
    """Return a client with a time-out of `seconds` per reply and `retries` further attempts. Connects when used.

    Behind Sentinels it connects to the primary, and queries them for each new connection. A connection to a server that
    refuses writes is closed; if that is a replica, the command is sent again over a new one. Raises SettingsError for a
    URL that redis-py cannot parse.
    """
    try:
        make = sentinel_client if is_sentinel(url) else redis.Redis.from_url
        client = make(
            url,
            protocol=protocol,
            socket_timeout=seconds,
            socket_connect_timeout=min(seconds, 3),
            health_check_interval=30,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=retries),
            client_name="viewer-pipeline",
        )
        leave_servers_that_refuse_writes(client)
        pool = client.connection_pool
        pool.connection_class(
            **pool.connection_kwargs
        )  # reports an unknown parameter now, and not at the first command
    except (ValueError, TypeError):
        raise SettingsError(f"REDIS_URL={redact_url(url)!r}: redis-py does not understand it") from None
    return client


@contextmanager
def redis_errors(url: str) -> Iterator[None]:
    """Raise redis-py's errors as ours: what may be retried, and what needs a person."""
    try:
        yield
    except RedisError as error:
        raise _as_ours(error, redact_text(url)) from error


def as_text(raw: bytes | None) -> str:
    """Return bytes of Redis as text, invalid UTF-8 escaped; None as an empty text."""
    return (raw or b"").decode("utf-8", "backslashreplace")


def _as_ours(error: RedisError, where: str) -> Exception:
    message = f"{where}: {str(error).partition(chr(10))[0]}"
    if is_write_refusal(error):
        return RedisRefusesWrites(message)
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
