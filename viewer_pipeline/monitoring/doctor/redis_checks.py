"""Slow checks of Redis: version, latency, cluster mode, persistence, durability."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import redis

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import RedisFailed, RedisRefusesWrites, SettingsError
from viewer_pipeline.monitoring.health_rules import INFO
from viewer_pipeline.monitoring.nodes import Weakness, worst_of_nodes
from viewer_pipeline.monitoring.probes import HealthProbes, read_redis_info
from viewer_pipeline.redis_url import is_cluster_url
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import redis_errors
from viewer_pipeline.stores.redis_durability_wait import Durability
from viewer_pipeline.stores.table_privileges_and_redis_commands import REDIS_COMMANDS

ROUND_TRIPS = 7
NEEDED = frozenset(command.partition("|")[0].upper() for command in REDIS_COMMANDS)
OPTIONAL = {  # what is missing without them
    "CLIENT": "connections have no name in CLIENT LIST",
    "CONFIG": "what a crash loses is not known exactly",
    "HELLO": "nothing, RESP2 is used in any case",
    "INFO": "version, memory, cluster mode and persistence are unknown",
}
CONFIG = ("appendfsync", "save")
OLDEST = (6, 2)
SLOW_MS = 10.0
SEE_DURABILITY = f"see `{command_to_type('docs redis-durability')}`"
DURABLE = f"set appendonly yes; {SEE_DURABILITY}"
# What is guaranteed least, of nodes of a cluster whose results have the same status.
WEAKNESSES: dict[str, Weakness] = {
    "redis_latency": lambda details: details["latency_ms"],
    "redis_persistence": lambda details: (
        ("always", "everysec", "no").index(details["appendfsync"])
        if details.get("appendfsync") in ("always", "everysec", "no")
        else 3
    ),
    "redis_durability": lambda details: -(details["connected_replicas"] or 0),
}
LOST = {"always": "nothing", "everysec": "the views of the last second", "no": "the views of half a minute"}


@dataclass(frozen=True)
class RedisReading:
    """The state of a server, read at one moment."""

    latency_ms: float
    info: dict[str, Any]  # empty where INFO is refused
    config: dict[str, str]  # empty where CONFIG is refused, as in managed services
    wait_error: str = ""  # why REDIS_WAIT_* cannot be honoured
    missing_commands: (
        tuple[str, ...] | None
    ) = ()  # those that this server does not know; None where COMMAND INFO does not tell


def check_redis_server(probes: HealthProbes) -> list[CheckResult]:
    """Read the server and evaluate it. Raises RedisUnavailable, RedisFailed."""
    with probes.store.node_clients() as clients, redis_errors(probes.redis_url):
        by_node = {node: evaluate_server(_read(client, probes), probes.settings) for node, client in clients.items()}
    names = [result.name for result in next(iter(by_node.values()))]
    return [
        worst_of_nodes({node: results[at] for node, results in by_node.items()}, WEAKNESSES.get(name, lambda _: 0))
        for at, name in enumerate(names)
    ]


def _read(client: redis.Redis, probes: HealthProbes) -> RedisReading:
    client.ping()  # connects
    round_trips = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        client.ping()
        round_trips.append(time.perf_counter() - started)
    info, config, wait_error = read_redis_info(client), _read_config(client), ""
    try:
        Durability.of(probes.settings).require_support(client, probes.redis_url)
    except (SettingsError, RedisFailed, RedisRefusesWrites) as error:
        wait_error = str(error)
    latency_ms = round(median(round_trips) * 1000, 2)
    return RedisReading(latency_ms, info, config, wait_error, _read_missing_commands(client))


def _read_missing_commands(client: redis.Redis) -> tuple[str, ...] | None:
    names = sorted(NEEDED | set(OPTIONAL))
    try:
        known: Any = client.execute_command("COMMAND INFO", *names)  # type: ignore[no-untyped-call]  # so in redis-py
    except redis.ResponseError:
        return None
    if not isinstance(known, list) or len(known) != len(names):  # so in some servers that are compatible with Redis
        return None
    return tuple(name for name, entry in zip(names, known, strict=True) if entry is None)


def _read_config(client: redis.Redis) -> dict[str, str]:
    config: Any = {}
    with suppress(redis.ResponseError):
        for name in CONFIG:
            config |= client.config_get(name)
    return dict(config)


def evaluate_server(reading: RedisReading, settings: Settings) -> list[CheckResult]:
    """Evaluate everything. Pure."""
    results = [
        _evaluate_commands(reading.missing_commands),
        _evaluate_latency(reading.latency_ms),
        _evaluate_durability(reading, Durability.of(settings)),
    ]
    if reading.info:
        return [
            *results,
            _evaluate_version(reading.info),
            _evaluate_cluster(bool(reading.info.get("cluster_enabled")), is_cluster_url(settings.redis_url or "")),
            _evaluate_persistence(reading),
        ]
    names = ("redis_version", "redis_cluster", "redis_persistence")
    return results + [CheckResult(name, "unknown", "this user may not run INFO", remedy=INFO) for name in names]


def _evaluate_version(info: dict[str, Any]) -> CheckResult:
    compatible = str(info.get("redis_version", ""))  # of a Valkey, the Redis that it is compatible with
    message = f"{info.get('server_name', 'redis')} {info.get('valkey_version', compatible)}"
    if tuple(map(int, re.findall(r"\d+", compatible)[:2])) < OLDEST:
        return CheckResult("redis_version", "unhealthy", f"{message}, older than 6.2", remedy="upgrade to 6.2 or newer")
    return CheckResult("redis_version", "healthy", message)


def _evaluate_commands(missing: tuple[str, ...] | None) -> CheckResult:
    """Evaluate the commands that a proxy does not pass on, or `rename-command` has removed."""
    name = "redis_commands"
    if missing is None:
        remedy = f"COMMAND INFO is refused, or unusual; allow it, or compare with `{command_to_type('grants')}`"
        return CheckResult(name, "unknown", "which commands this Redis knows cannot be read", remedy=remedy)
    effects = [f"{command} ({OPTIONAL[command]})" for command in missing if command in OPTIONAL]
    if needed := [command for command in missing if command not in OPTIONAL]:
        message = f"this Redis has no {', '.join([*needed, *effects])}"
        remedy = "remove `rename-command` for them from its configuration, or connect without the proxy"
        return CheckResult(name, "unhealthy", message, remedy=remedy)
    if effects:
        return CheckResult(name, "healthy", f"all needed commands are there; what is missing: {', '.join(effects)}")
    return CheckResult(name, "healthy", "all commands are there")


def _evaluate_latency(latency_ms: float) -> CheckResult:
    message, details = f"PING takes {latency_ms} ms", {"latency_ms": latency_ms}
    if latency_ms > SLOW_MS:
        return CheckResult("redis_latency", "degraded", message, details, "run worker and Dagster near this Redis")
    return CheckResult("redis_latency", "healthy", message, details)


def _evaluate_cluster(is_cluster: bool, url_is_of_cluster: bool) -> CheckResult:
    """Evaluate whether the URL and the server agree."""
    message = f"cluster mode is {'on' if is_cluster else 'off'}"
    if is_cluster == url_is_of_cluster:
        return CheckResult("redis_cluster", "healthy", message)
    wrong, right = ("redis://", "redis+cluster://") if is_cluster else ("redis+cluster://", "redis://")
    remedy = f"write {right} in place of {wrong} into REDIS_URL"
    return CheckResult("redis_cluster", "unhealthy", f"{message}, and REDIS_URL begins with {wrong}", remedy=remedy)


def _evaluate_persistence(reading: RedisReading) -> CheckResult:
    """Evaluate which views a power cut would lose."""
    info, name = reading.info, "redis_persistence"
    fsync, save = reading.config.get("appendfsync", "unknown"), reading.config.get("save")
    details = {"appendonly": bool(info.get("aof_enabled")), "appendfsync": fsync, "save": save}
    if info.get("aof_enabled"):
        message = (
            f"append-only file, appendfsync {fsync}: a power cut loses {LOST.get(fsync, 'what is not synced yet')}"
        )
        if fsync == "no":
            return CheckResult(name, "degraded", message, details, "CONFIG SET appendfsync everysec")
        return CheckResult(name, "healthy", message, details)
    if save == "":
        message = "neither append-only file nor snapshots: a restart loses all pending views"
        return CheckResult(name, "degraded", message, details, DURABLE)
    snapshots = (
        f"snapshots only (save {save})"
        if save
        else "no append-only file, and CONFIG is refused, so snapshots are unknown"
    )
    message = f"{snapshots}: a crash loses the pending views since the last one"
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        message += "; the last snapshot failed"
    return CheckResult(name, "degraded", message, details, DURABLE)


def _evaluate_durability(reading: RedisReading, durability: Durability) -> CheckResult:
    """Evaluate whether this Redis can confirm what REDIS_WAIT_* name."""
    name, connected = "redis_durability", reading.info.get("connected_slaves")
    remedy = f"{SEE_DURABILITY}; until then no flush succeeds"
    details: dict[str, Any] = {"can_wait": False, "connected_replicas": connected}
    if reading.wait_error:
        return CheckResult(name, "unhealthy", reading.wait_error, details, remedy)
    if connected is not None and connected < durability.replicas:
        message = f"REDIS_WAIT_REPLICAS={durability.replicas}, and {connected} replicas are connected"
        return CheckResult(name, "unhealthy", message, details, remedy)
    details["can_wait"] = True
    if not durability.required:
        message = "flushes wait for no replica and no file: after a failover or a crash, Redis may hold older counters"
        remedy = f"where that matters, REDIS_WAIT_REPLICAS or REDIS_WAIT_AOF; {SEE_DURABILITY}"
        return CheckResult(name, "healthy", message, details, remedy)
    waits = [f"REDIS_WAIT_REPLICAS={durability.replicas}"] * bool(durability.replicas)
    waits += ["REDIS_WAIT_AOF=1"] * durability.aof
    return CheckResult(name, "healthy", f"this Redis can confirm {' and '.join(waits)}", details)
