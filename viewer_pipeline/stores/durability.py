"""What a Redis must have acknowledged before its counters are committed (rule R7), and whether it can."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import redis

from viewer_pipeline.errors import NotDurable, RedisRefusesWrites, SettingsError, TransientError
from viewer_pipeline.redaction import without_password
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect, redis_errors

TRUE_WAITAOF = 8  # Redis: the first version whose WAITAOF waits for the disk also with `appendfsync everysec`
START_SECONDS = 3.0  # for the question at the start of a process


@dataclass(frozen=True)
class Durability:
    """How many replicas, and whether the append-only file, must have what was read; and how long that may take."""

    replicas: int = 0
    aof: bool = False
    timeout_ms: int = 3000

    @classmethod
    def of(cls, settings: Settings) -> Durability:
        """Return what the settings ask for."""
        return cls(settings.redis_wait_replicas, bool(settings.redis_wait_aof), settings.redis_wait_timeout_ms)

    @property
    def asked_for(self) -> bool:
        """Whether there is anything to wait for."""
        return self.aof or self.replicas > 0

    @property
    def seconds(self) -> float:
        """How much longer than other commands a wait may take."""
        return self.timeout_ms / 1000 if self.asked_for else 0.0

    def wait(self, client: redis.Redis, url: str) -> None:
        """Wait until all that this client's only connection has written is as durable as asked for.

        With it is everything that came before it, of whatever client: replication and the file are one stream each.
        Raises NotDurable where that does not come in time, SettingsError where this Redis cannot do it.
        """
        if self.replicas:
            found = self._ask(client, url, "REDIS_WAIT_REPLICAS", self.replicas, "WAIT", self.replicas, self.timeout_ms)
            if found < self.replicas:
                raise NotDurable(
                    f"REDIS_WAIT_REPLICAS={self.replicas}: {found} of {self.replicas} replicas acknowledged within"
                    f" {self.timeout_ms} ms"
                )
        if self.aof:
            synced, _ = self._ask(client, url, "REDIS_WAIT_AOF", 1, "WAITAOF", 1, 0, self.timeout_ms)
            if not synced:
                raise NotDurable(f"REDIS_WAIT_AOF=1: 0 of 1 append-only files acknowledged within {self.timeout_ms} ms")

    def require(self, client: redis.Redis, url: str) -> None:
        """Raise SettingsError where this Redis cannot do what is asked for, whatever it holds and however long."""
        if self.replicas:
            self._ask(client, url, "REDIS_WAIT_REPLICAS", self.replicas, "WAIT", 0, 1)
        if self.aof:
            self._ask(client, url, "REDIS_WAIT_AOF", 1, "WAITAOF", 1, 0, 1)
            _require_a_true_waitaof(client, url)

    @staticmethod
    def _ask(client: redis.Redis, url: str, name: str, value: int, *command: str | int) -> Any:
        with redis_errors(url):
            try:
                return client.execute_command(*command)  # type: ignore[no-untyped-call]  # so in redis-py
            except redis.ResponseError as error:
                said = str(error)
                where = f"{name}={value}: {without_password(url)}"
                if "unknown command" in said.lower():
                    needed = " (Redis has it from 7.2 on)" if command[0] == "WAITAOF" else ""
                    raise SettingsError(f"{where} is {_version(client)} and has no {command[0]}{needed}") from error
                if "appendonly is disabled" in said:
                    raise SettingsError(
                        f"{where} is {_version(client)} and keeps no append-only file (appendonly no)"
                    ) from error
                if "replica instance" in said:
                    raise RedisRefusesWrites(f"{without_password(url)}: {said}") from error
                raise


def _require_a_true_waitaof(client: redis.Redis, url: str) -> None:
    """Raise SettingsError where WAITAOF may answer although nothing has reached the disk.

    Redis 7.4, Valkey 8 and 9 take what was written within a second of the last sync for synced (redis/redis#13793), so
    there each write must be (`appendfsync always`). What does not tell its version or its setting is not believed.
    """
    with redis_errors(url):
        server, sync = _server(client), _appendfsync(client)
    waits = int(server.get("redis_version", "0").split(".")[0]) >= TRUE_WAITAOF and sync != "no"
    if sync == "always" or waits:
        return
    said = (
        f"answers before the file is synced, with appendfsync {sync}; set `appendfsync always`"
        if sync
        else "may answer before the file is synced, and CONFIG GET appendfsync, which would tell, is refused"
    )
    raise SettingsError(f"REDIS_WAIT_AOF=1: {without_password(url)} is {_version(client)}, whose WAITAOF {said}")


def _version(client: redis.Redis) -> str:
    server = _server(client)
    if "redis_version" not in server:
        return "a Redis of unknown version"
    name = server.get("server_name", "Redis").capitalize()
    return f"{name} {server.get('valkey_version', server['redis_version'])}"


def _server(client: redis.Redis) -> dict[str, str]:
    """Return what INFO says of the server; nothing where an ACL keeps it from us."""
    try:
        found: Any = client.info("server")
    except redis.ResponseError:
        return {}
    return {name: str(value) for name, value in found.items()}


def _appendfsync(client: redis.Redis) -> str:
    """Return the setting; "" where an ACL, or whoever hosts the server, keeps it from us."""
    try:
        found: Any = client.config_get("appendfsync")
    except redis.ResponseError:
        return ""
    return os.fsdecode(found.get("appendfsync", ""))


def require_durability(settings: Settings) -> None:
    """Raise SettingsError where the Redis of the settings cannot honour REDIS_WAIT_REPLICAS, REDIS_WAIT_AOF.

    One that is out of reach now is asked again by every run.
    """
    durability = Durability.of(settings)
    if durability.asked_for:
        url = settings.require_redis_url()
        with closing(connect(url, seconds=START_SECONDS, retries=0)) as client:
            try:
                durability.require(client, url)
            except TransientError:
                return
