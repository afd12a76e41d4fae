"""The rules of the doctor, for readings that the servers of the tests do not give; its page lists every check."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.counter_reader import Pipeline
from viewer_pipeline.flush.ledger_identity import LedgerIdentity
from viewer_pipeline.flush.standby_wait import StandbyWait
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.monitoring.doctor import postgres_checks, redis_checks
from viewer_pipeline.monitoring.doctor.check_rationales import CHECK_RATIONALES
from viewer_pipeline.monitoring.doctor.clock_skew import evaluate_clocks
from viewer_pipeline.monitoring.doctor.clone_detectability import evaluate_clone_detection
from viewer_pipeline.monitoring.doctor.grpc_proxy import evaluate_grpc_proxy
from viewer_pipeline.monitoring.doctor.postgres_checks import PostgresReading
from viewer_pipeline.monitoring.doctor.redis_checks import RedisReading
from viewer_pipeline.monitoring.doctor.run_checks import _slow_checks
from viewer_pipeline.monitoring.doctor.sweep_cost_and_bad_counters import (
    KeyspaceSample,
    evaluate_sweep_cost_and_counters,
)
from viewer_pipeline.monitoring.doctor.timeline import evaluate_timeline
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.check_results import by_name

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "doctor.md"
POSTGRES = PostgresReading(
    version_number=180_001,
    version="18.1",
    encoding="UTF8",
    fsync=True,
    full_page_writes=True,
    synchronous_commit="on",
    synchronous_standby_names="",
    standbys=0,
    role="me",
    missing_rights=(),
    latency_ms=0.5,
)
INFO: dict[str, Any] = {
    "redis_version": "7.2.4",
    "cluster_enabled": 0,
    "aof_enabled": 1,
    "rdb_last_bgsave_status": "ok",
}
REDIS = RedisReading(0.3, INFO, {"appendfsync": "everysec", "save": ""})


def text_of(result: CheckResult) -> str:
    """Return status and message; a result that is not healthy has a remedy."""
    assert result.passed or result.remedy
    return f"{result.status}: {result.message}"


def of_postgres(name: str, **changes: Any) -> str:
    """Return a result for a healthy PostgreSQL with these changes."""
    return text_of(by_name(postgres_checks.evaluate_server(replace(POSTGRES, **changes)))[name])


def pending_samples(name: str, **changes: Any) -> str:
    """Return a result for a healthy Redis with these changes."""
    return text_of(by_name(redis_checks.evaluate_server(replace(REDIS, **changes), Settings()))[name])


def test_healthy_servers() -> None:
    """All their checks are healthy."""
    results = [*postgres_checks.evaluate_server(POSTGRES), *redis_checks.evaluate_server(REDIS, Settings())]
    assert [result for result in results if not result.passed] == []


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("version", {"version_number": 130_012, "version": "13.12"}, "unhealthy: version 13.12, older than 14"),
        ("latency", {"latency_ms": 45.0}, "degraded: SELECT 1 takes 45.0 ms"),
        ("encoding", {"encoding": "LATIN1"}, "unhealthy: the database is encoded in LATIN1"),
        ("durability", {"fsync": False}, "unhealthy: fsync is off: a crash may destroy the database"),
        ("durability", {"full_page_writes": False}, "degraded: full_page_writes is off"),
        ("durability", {"synchronous_commit": "local"}, "degraded: synchronous_commit is local: a failover"),
        (
            "durability",
            {"synchronous_commit": "local", "standby_wait": StandbyWait(1), "standbys": 2},
            "healthy: fsync is on, and 2 standbys can confirm flushes (POSTGRES_WAIT_STANDBYS=1)",
        ),
        ("durability", {"wait_error": "no right"}, "unhealthy: no right"),
        (
            "privileges",
            {"missing_rights": ("SELECT ON a", "INSERT ON b")},
            "unhealthy: role me has no SELECT ON a, INS",
        ),
    ],
)
def test_postgres(name: str, changes: dict[str, Any], expected: str) -> None:
    """One thing is wrong."""
    assert of_postgres(f"postgres_{name}", **changes).startswith(expected)


@pytest.mark.parametrize(
    ("name", "info", "expected"),
    [
        ("redis_version", {"redis_version": "6.0.16"}, "unhealthy: redis 6.0.16, older than 6.2"),
        ("redis_version", {"server_name": "valkey", "valkey_version": "8.0.1"}, "healthy: valkey 8.0.1"),
        ("redis_version", {"redis_version": "10.0.0"}, "healthy: redis 10.0.0"),
        ("redis_cluster", {"cluster_enabled": 1}, "unhealthy: cluster mode is on, and REDIS_URL begins with redis://"),
        (
            "redis_persistence",
            {"aof_enabled": 0, "rdb_last_bgsave_status": "err"},
            "degraded: snapshots only (save 3600 1): a crash loses the pending views since the last one; the last snap",
        ),
    ],
)
def test_redis(name: str, info: dict[str, Any], expected: str) -> None:
    """One thing is wrong, or only seems so."""
    config = {"save": "3600 1"}
    assert pending_samples(name, info=INFO | info, config=config).startswith(expected)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ((), "healthy: all commands are there"),
        (
            ("HELLO",),
            "healthy: all needed commands are there; what is missing: HELLO (nothing, RESP2 is used in any case)",
        ),
        (("EVALSHA", "HELLO"), "unhealthy: this Redis has no EVALSHA, HELLO (nothing, RESP2 is used in any case)"),
        (None, "unknown: which commands this Redis knows cannot be read"),
    ],
)
def test_commands_of_redis(missing: tuple[str, ...] | None, expected: str) -> None:
    """What a proxy or `rename-command` takes away is named, with its effect."""
    assert pending_samples("redis_commands", missing_commands=missing) == expected


@pytest.mark.parametrize("name", ["redis_version", "redis_cluster", "redis_persistence"])
def test_redis_without_info(name: str) -> None:
    """What INFO would show is unknown."""
    assert pending_samples(name, info={}) == "unknown: this user may not run INFO"


@pytest.mark.parametrize(
    ("postgres", "redis", "expected"),
    [
        (0.1, -0.2, "healthy: clocks agree; against this machine: PostgreSQL +0.100 s, Redis -0.200 s"),
        (1.5, -1.5, "degraded: clocks are 3.0 s apart; against this machine: PostgreSQL +1.500 s, Redis -1.500 s"),
        (0.0, 90.0, "degraded: clocks are 90.0 s apart; against this machine: PostgreSQL +0.000 s, Redis +90.000 s"),
    ],
)
def test_clocks(postgres: float, redis: float, expected: str) -> None:
    """Those of the servers are compared with each other and with this machine's."""
    assert text_of(evaluate_clocks(postgres, redis)) == expected


def test_slow_sweep() -> None:
    """Sixty million keys at a quarter of a millisecond for five hundred."""
    keyspace = KeyspaceSample(keys=60_000_000, scans=600, scan_ms=0.25, complete=False, counters=12, counters_read=12)
    sweep = by_name(evaluate_sweep_cost_and_counters(keyspace, "c:"))["keyspace"]
    assert (sweep.status, sweep.details["sweep_seconds"]) == ("degraded", 30.0)
    expected = "60000000 keys, 12 counters c:* among the first 300000: a sweep makes 120000 SCAN calls"
    assert sweep.message.startswith(expected)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "healthy: gRPC uses no proxy"),
        ({"HTTP_PROXY": "http://p"}, "healthy: gRPC uses no proxy"),
        ({"http_proxy": "http://p", "grpc_proxy": ""}, "healthy: gRPC uses no proxy"),
        (
            {"http_proxy": "http://me:secret@p:1"},
            "degraded: gRPC uses http_proxy=http://me:***@p:1 for every host: Dagster's own commands do not reach the",
        ),
        ({"https_proxy": "q", "http_proxy": "p", "no_proxy": ""}, "degraded: gRPC uses https_proxy=q for every host"),
        (
            {"http_proxy": "p", "no_proxy": ".internal"},
            "healthy: gRPC uses http_proxy=p, except for no_proxy=.internal, where the code server must be",
        ),
        ({"http_proxy": "p", "no_proxy": "a", "no_grpc_proxy": ""}, "degraded: gRPC uses http_proxy=p for every host"),
    ],
)
def test_grpc_proxy(variables: dict[str, str], expected: str) -> None:
    """As gRPC reads the variables; a daemon whose sensor ticks evidently reaches the code server."""
    assert text_of(evaluate_grpc_proxy(variables, sensor_ticks=False)).startswith(expected)
    assert evaluate_grpc_proxy(variables, sensor_ticks=True).status == "healthy"


def test_page_lists_every_check() -> None:
    """Each name once, in the order of the report, with no empty cell; no other name."""
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|(.*)\|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    daemons = {name for name in CHECK_RATIONALES if name.startswith("daemon_")}
    assert [name for name, *_ in rows] == [name for name in CHECK_RATIONALES if name not in daemons]
    assert [name for name, *cells in rows if not all(cell.strip() for cell in cells)] == []
    assert "| `daemon_*` |" in PAGE.read_text(encoding="utf-8")


def test_each_check_has_one_probe() -> None:
    """The doctor runs the probes of /health, and slow ones of its own for what those do not decide."""
    settings = Settings(database_url="postgresql://host/db", redis_url="redis://host", celery_broker_url="redis://host")
    health, commands = HealthProbes(settings, stats=SubscriberStats()), HealthProbes(settings)
    names = [name for check in (*commands.health_checks(), *_slow_checks(commands, 0, 1)) for name in check.names]
    assert sorted(["settings", "grpc_proxy", *names]) == sorted(CHECK_RATIONALES)
    assert {name for check in health.health_checks() for name in check.names} <= set(names)
    health.close()
    commands.close()


IDENTITY = LedgerIdentity("id", "7", 5, "db:5432/views")
OTHER = Pipeline("shop:", "other/7/6", "db:5432/shop")


def of_identity(identity: LedgerIdentity = IDENTITY, recorded: str = IDENTITY.key) -> CheckResult:
    """Return the result for a ledger that Redis knows as `recorded`."""
    return evaluate_clone_detection("vod:views:", identity, [Pipeline("vod:views:", recorded, IDENTITY.place), OTHER])


def test_timeline() -> None:
    """Without it, a failover may count views twice: reported with the remedy."""
    known = evaluate_timeline("00000001/1764370000000000/16400/16400")
    assert (known.status, known.message) == ("healthy", "timeline 00000001")
    unknown = evaluate_timeline("unknown")
    assert (unknown.status, "count twice" in unknown.message) == ("degraded", True)
    assert "pg_walfile_name(pg_lsn)" in unknown.remedy


def test_clone_detection() -> None:
    """Other pipelines are named; an identity that may belong to a copy as well is reported, with the remedy."""
    healthy = of_identity()
    assert (healthy.status, healthy.details["other_pipelines"]) == ("healthy", 1)
    assert "shop:* of db:5432/shop" in healthy.message
    unknown = of_identity(identity=IDENTITY._replace(system="unknown"))
    assert (unknown.status, "pg_control_system" in unknown.remedy) == ("degraded", True)
    assert "would be taken for the original" in unknown.message
    recorded = of_identity(recorded="id/unknown/5")
    assert (recorded.status, "adopt" in recorded.remedy) == ("degraded", True)
