"""What Redis says of itself. Writes nothing; what an ACL or a provider keeps from us is left out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import redis

from viewer_pipeline.errors import RedisFailed, RedisRefusesWrites, SettingsError
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.durability import Durability
from viewer_pipeline.stores.redis import redis_errors

ROUND_TRIPS = 7
CONFIG = ("appendfsync", "save", "stop-writes-on-bgsave-error", "min-replicas-to-write")


@dataclass(frozen=True)
class RedisReading:
    """All of it, at one moment."""

    latency_ms: float
    clock_ahead: float  # seconds before this machine's
    info: dict[str, Any]  # empty where INFO is forbidden
    config: dict[str, str]  # empty where CONFIG is forbidden, as managed services do
    cannot_wait: str = ""  # why REDIS_WAIT_* cannot be honoured


def read_redis(client: redis.Redis, settings: Settings) -> RedisReading:
    """Ask. Raises RedisUnavailable, RedisFailed."""
    url = settings.require_redis_url()
    with redis_errors(url):
        client.ping()  # connects
        trips = []
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            client.ping()
            trips.append(time.perf_counter() - started)
        asked = time.time()
        seconds, microseconds = client.time()
        ahead = seconds + microseconds / 1e6 - (asked + time.time()) / 2
    found = RedisReading(round(median(trips) * 1000, 2), round(ahead, 3), _info(client, url), _config(client, url))
    return RedisReading(found.latency_ms, found.clock_ahead, found.info, found.config, _cannot_wait(client, settings))


def _info(client: redis.Redis, url: str) -> dict[str, Any]:
    with redis_errors(url):
        try:
            found: Any = client.info()
        except redis.ResponseError:
            return {}
    return dict(found)


def _config(client: redis.Redis, url: str) -> dict[str, str]:
    found: dict[str, str] = {}
    with redis_errors(url):
        for name in CONFIG:
            try:
                answer: Any = client.config_get(name)
            except redis.ResponseError:
                return {}
            found |= {_text(key): _text(value) for key, value in answer.items()}
    return found


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _cannot_wait(client: redis.Redis, settings: Settings) -> str:
    try:
        Durability.of(settings).require(client, settings.require_redis_url())
    except (SettingsError, RedisFailed, RedisRefusesWrites) as error:
        return str(error)
    return ""
