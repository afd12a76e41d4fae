"""What is to be thought of a Redis: what it is, and whether it takes writes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from viewer_pipeline.monitoring.doctor.finding import Finding
from viewer_pipeline.monitoring.doctor.redis_keeps import judge_durability, judge_eviction, judge_persistence
from viewer_pipeline.monitoring.doctor.redis_reading import RedisReading
from viewer_pipeline.settings import Settings

OLDEST = (6, 2)
SLOW_MS = 10.0
FULL = 0.8  # share of maxmemory


def judge_redis(reading: RedisReading, settings: Settings) -> Iterator[Finding]:
    """Judge everything but the clock and the keys."""
    yield _reachable(reading)
    if reading.info:
        yield _version(reading.info)
    yield _latency(reading)
    if reading.info:
        yield _cluster(reading.info)
        yield _writes(reading)
        yield judge_eviction(reading.info)
        yield judge_persistence(reading)
    yield judge_durability(settings, reading)


def _reachable(reading: RedisReading) -> Finding:
    hidden = [name for name, found in (("INFO", reading.info), ("CONFIG", reading.config)) if not found]
    if "INFO" in hidden:
        what = "answers, but this user may not ask INFO: version, role, memory, eviction, persistence are not known"
        return Finding("redis", "warning", what, "give the user what `viewer-pipeline grants` prints")
    if hidden:
        what = "answers; CONFIG is forbidden, so appendfsync, save and stop-writes-on-bgsave-error are not known"
        return Finding("redis", "note", what, "look them up where this Redis is managed")
    return Finding("redis", "ok", "answers")


def _version(info: dict[str, Any]) -> Finding:
    text = str(info.get("redis_version", ""))
    name, shown = str(info.get("server_name", "redis")), str(info.get("valkey_version", text))
    version = tuple(map(int, re.findall(r"\d+", text)[:2]))
    if version < OLDEST:
        return Finding("redis_version", "problem", f"{name} {shown}, older than 6.2", "upgrade to 6.2 or newer")
    return Finding("redis_version", "ok", f"{name} {shown}")


def _latency(reading: RedisReading) -> Finding:
    what, figures = f"PING takes {reading.latency_ms} ms", {"latency_ms": reading.latency_ms}
    if reading.latency_ms > SLOW_MS:
        return Finding("redis_latency", "warning", what, "run worker and Dagster near this Redis", figures)
    return Finding("redis_latency", "ok", what, figures=figures)


def _cluster(info: dict[str, Any]) -> Finding:
    if info.get("cluster_enabled"):
        do = "use a Redis that is not in cluster mode for the counters"
        return Finding("redis_cluster", "problem", "cluster mode is on, which is not supported", do)
    return Finding("redis_cluster", "ok", "cluster mode is off")


def _writes(reading: RedisReading) -> Finding:
    info, config, name = reading.info, reading.config, "redis_writes"
    if info.get("role") == "slave":
        where = f"{info.get('master_host')}:{info.get('master_port')}"
        return Finding(name, "problem", f"it is a replica of {where}", "name the primary in REDIS_URL, or Sentinels")
    if said := _stopped(info, config):
        return Finding(name, *said)
    if said := _memory(info):
        return Finding(name, *said)
    return Finding(name, "ok", "it is a primary and takes writes")


def _stopped(info: dict[str, Any], config: dict[str, str]) -> tuple[Any, ...] | None:
    """Look at what makes a primary refuse writes."""
    if info.get("aof_enabled") and info.get("aof_last_write_status", "ok") != "ok":
        return ("problem", "it cannot write its append-only file, and refuses writes", "look at its disk and its log")
    needed = int(config.get("min-replicas-to-write", "0"))
    good = info.get("min_slaves_good_slaves", needed)
    if good < needed:
        return ("problem", f"it has {good} good replicas and takes writes with {needed} only", "bring replicas back")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        stops = config.get("stop-writes-on-bgsave-error", "yes") == "yes" and config.get("save", "?") != ""
        if stops and config:
            return ("problem", "its last snapshot failed, and so it refuses writes (MISCONF)", "look at disk and log")
        return ("warning", "its last snapshot failed", "look at its disk and its log")
    return None


def _memory(info: dict[str, Any]) -> tuple[Any, ...] | None:
    most, used = info.get("maxmemory", 0), info.get("used_memory", 0)
    if not most or used < FULL * most:
        return None
    share = f"{used / most:.0%} of maxmemory is used"
    figures = {"used_memory": used, "maxmemory": most}
    if used >= most and not str(info.get("maxmemory_policy", "")).startswith(("allkeys-", "volatile-")):
        return (
            "problem",
            f"{share}: it refuses writes (OOM)",
            "give it more memory, or let other keys expire",
            figures,
        )
    return ("warning", share, "give it more memory, or let other keys expire", figures)
