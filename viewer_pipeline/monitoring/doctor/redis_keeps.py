"""Whether a Redis keeps what it was given: eviction, persistence, replicas. Pure."""

from __future__ import annotations

from typing import Any

from viewer_pipeline.monitoring.doctor.finding import Finding
from viewer_pipeline.monitoring.doctor.redis_reading import RedisReading
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.durability import Durability

DURABLE = "appendonly yes; docs/how-to/redis-durability.md tells what else can be had"


def judge_eviction(info: dict[str, Any]) -> Finding:
    """Judge `maxmemory-policy` (rule R10)."""
    policy = str(info.get("maxmemory_policy", ""))
    figures = {"maxmemory_policy": policy}
    if not policy:
        do = "see that it is noeviction or volatile-*"
        return Finding("redis_eviction", "warning", "Redis does not tell its maxmemory-policy", do)
    if policy == "noeviction":
        return Finding("redis_eviction", "ok", "maxmemory-policy noeviction: no key is evicted", figures=figures)
    if policy.startswith("volatile-"):
        what = f"maxmemory-policy {policy} evicts keys that expire only, and no counter may"
        return Finding("redis_eviction", "ok", what, figures=figures)
    what = f"maxmemory-policy {policy} evicts counters when memory is full, and their views are lost"
    do = "CONFIG SET maxmemory-policy noeviction, and the same in the configuration file"
    return Finding("redis_eviction", "problem", what, do, figures)


def judge_persistence(reading: RedisReading) -> Finding:
    """Judge what a power cut would take along."""
    info, config, name = reading.info, reading.config, "redis_persistence"
    fsync, save = config.get("appendfsync", "unknown"), config.get("save")
    figures = {"appendonly": bool(info.get("aof_enabled")), "appendfsync": fsync, "save": save}
    if info.get("aof_enabled"):
        lost = {"always": "nothing", "everysec": "the views of the last second", "no": "the views of half a minute"}
        what = f"append-only file, appendfsync {fsync}: a power cut loses {lost.get(fsync, 'what was not synced yet')}"
        if fsync == "no":
            return Finding(name, "warning", what, "CONFIG SET appendfsync everysec", figures)
        return Finding(name, "ok", what, figures=figures)
    if save == "":
        what = "neither append-only file nor snapshots: a restart loses all pending views"
        return Finding(name, "warning", what, DURABLE, figures)
    said = f"snapshots only (save {save})" if save else "no append-only file; whether there are snapshots is not known"
    what = f"{said}: a crash loses the pending views since the last one"
    return Finding(name, "warning", what, DURABLE, figures)


def judge_durability(settings: Settings, reading: RedisReading) -> Finding:
    """Judge whether what REDIS_WAIT_* ask for can be had."""
    asked, has = Durability.of(settings), reading.info.get("connected_slaves")
    do = "docs/how-to/redis-durability.md; no flush succeeds like this"
    if reading.cannot_wait:
        return Finding("redis_durability", "problem", reading.cannot_wait, do)
    if has is not None and has < asked.replicas:
        what = f"REDIS_WAIT_REPLICAS={asked.replicas}, and {has} replicas are connected"
        return Finding("redis_durability", "problem", what, do)
    if not asked.asked_for:
        what = "nothing is waited for: a failover or a crash of Redis may bring older counters back"
        do = "REDIS_WAIT_REPLICAS or REDIS_WAIT_AOF where that matters (docs/how-to/redis-durability.md)"
        return Finding("redis_durability", "note", what, do)
    waits = [f"REDIS_WAIT_REPLICAS={asked.replicas}"] * bool(asked.replicas) + ["REDIS_WAIT_AOF=1"] * asked.aof
    return Finding("redis_durability", "ok", f"this Redis knows what {' and '.join(waits)} ask for")
