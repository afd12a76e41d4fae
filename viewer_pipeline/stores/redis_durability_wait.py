"""Durability of what was read: the acknowledgements that Redis must give before a commit (rule R7)."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis

from viewer_pipeline.errors import NotDurable, RedisRefusesWrites, SettingsError, TransientError
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import START_SECONDS, connect, redis_errors

TRUE_WAITAOF = 8  # Redis: the first version whose WAITAOF waits for the disk also with `appendfsync everysec`


class DurabilityWait(NamedTuple):
    """A command that waits for what a setting asks for, and the number of acknowledgements that it needs."""

    variable: str
    needed: int
    noun: str  # what acknowledges
    command: tuple[str | int, ...]


@dataclass(frozen=True)
class Durability:
    """The number of replicas, and whether the append-only file, must hold what was read; and the time for it."""

    replicas: int = 0
    aof: bool = False
    timeout_ms: int = 3000

    @classmethod
    def of(cls, settings: Settings) -> Durability:
        """Return the requirements in the settings."""
        return cls(settings.redis_wait_replicas, bool(settings.redis_wait_aof), settings.redis_wait_timeout_ms)

    @property
    def required(self) -> bool:
        """Whether there is anything to wait for."""
        return self.aof or self.replicas > 0

    @property
    def seconds(self) -> float:
        """The time of a wait beyond that of other commands."""
        return self.timeout_ms / 1000 if self.required else 0.0

    def waits(self) -> list[DurabilityWait]:
        """Return the commands that wait."""
        replicas = (self.replicas, "replicas", ("WAIT", self.replicas, self.timeout_ms))
        waits = [DurabilityWait("REDIS_WAIT_REPLICAS", *replicas)] if self.replicas else []
        file = (1, "append-only files", ("WAITAOF", 1, 0, self.timeout_ms))
        return [*waits, *([DurabilityWait("REDIS_WAIT_AOF", *file)] if self.aof else [])]

    def wait_until_durable(self, client: redis.Redis, url: str) -> None:
        """Wait until everything that this client's only connection has written is durable.

        So is everything before it, of any client: replication and the file are one stream each. Raises NotDurable on a
        time-out, SettingsError if this Redis cannot do it.
        """
        for wait in self.waits():
            reply = self._execute_wait_command(client, url, wait.variable, wait.needed, *wait.command)
            self.require_acknowledgement(wait, reply)

    def require_acknowledgement(self, wait: DurabilityWait, reply: Any, node: str = "") -> None:
        """Raise NotDurable if the reply to a wait is too low. `node`: of a cluster, host and port."""
        count = reply[0] if isinstance(reply, list) else reply
        if count < wait.needed:
            raise NotDurable(
                f"{wait.variable}={wait.needed}: {count} of {wait.needed} {wait.noun} acknowledged"
                f"{node and f' at {node}'} within {self.timeout_ms} ms"
            )

    def require_support(self, client: redis.Redis, url: str) -> None:
        """Raise SettingsError if this Redis cannot do it, whatever its data and the time-out."""
        if self.replicas:
            self._execute_wait_command(client, url, "REDIS_WAIT_REPLICAS", self.replicas, "WAIT", 0, 1)
        if self.aof:
            self._execute_wait_command(client, url, "REDIS_WAIT_AOF", 1, "WAITAOF", 1, 0, 1)
            _require_synced_waitaof(client, url)

    @staticmethod
    def _execute_wait_command(client: redis.Redis, url: str, variable: str, value: int, *command: str | int) -> Any:
        with redis_errors(url):
            try:
                return client.execute_command(*command)  # type: ignore[no-untyped-call]  # so in redis-py
            except redis.ResponseError as error:
                reply = str(error)
                where = f"{variable}={value}: {redact_text(url)}"
                if "unknown command" in reply.lower():
                    needed = " (Redis has it from 7.2 on)" if command[0] == "WAITAOF" else ""
                    raise SettingsError(f"{where} is {_version(client)} and has no {command[0]}{needed}") from error
                if "appendonly is disabled" in reply:
                    raise SettingsError(
                        f"{where} is {_version(client)} and keeps no append-only file (appendonly no)"
                    ) from error
                if "replica instance" in reply:
                    raise RedisRefusesWrites(f"{redact_text(url)}: {reply}") from error
                raise


def _require_synced_waitaof(client: redis.Redis, url: str) -> None:
    """Raise SettingsError if WAITAOF may reply although nothing has reached the disk.

    Redis 7.4, Valkey 8 and 9 take what was written within a second of the last sync for synced (redis/redis#13793), so
    each write must be synced there (`appendfsync always`). A server that hides its version or setting is refused.
    """
    with redis_errors(url):
        server, sync = _server(client), _appendfsync(client)
    waits = int(server.get("redis_version", "0").split(".")[0]) >= TRUE_WAITAOF and sync != "no"
    if sync == "always" or waits:
        return
    message = (
        f"answers before the file is synced, with appendfsync {sync}; set `appendfsync always`"
        if sync
        else "may answer before the file is synced, and CONFIG GET appendfsync, which would tell, is refused"
    )
    raise SettingsError(f"REDIS_WAIT_AOF=1: {redact_text(url)} is {_version(client)}, whose WAITAOF {message}")


def _version(client: redis.Redis) -> str:
    server = _server(client)
    if "redis_version" not in server:
        return "a Redis of unknown version"
    name = server.get("server_name", "Redis").capitalize()
    return f"{name} {server.get('valkey_version', server['redis_version'])}"


def _server(client: redis.Redis) -> dict[str, str]:
    """Return INFO server; empty if an ACL forbids it."""
    try:
        fields: Any = client.info("server")
    except redis.ResponseError:
        return {}
    return {name: str(value) for name, value in fields.items()}


def _appendfsync(client: redis.Redis) -> str:
    """Return the setting; empty if an ACL or the hosting service forbids it."""
    try:
        setting: Any = client.config_get("appendfsync")
    except redis.ResponseError:
        return ""
    return os.fsdecode(setting.get("appendfsync", ""))


def require_durability_support(settings: Settings) -> None:
    """Raise SettingsError if the Redis of the settings cannot honour REDIS_WAIT_REPLICAS, REDIS_WAIT_AOF.

    If it is unreachable now, every run checks again.
    """
    durability = Durability.of(settings)
    if durability.required:
        url = settings.require_redis_url()
        with closing(connect(url, seconds=START_SECONDS, retries=0)) as client:
            try:
                durability.require_support(client, url)
            except TransientError:
                return
