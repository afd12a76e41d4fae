"""What the doctor thinks of readings that no server of the tests gives; and that its page has every finding."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from viewer_pipeline.flush.identity import LedgerIdentity
from viewer_pipeline.flush.registry import Pipeline
from viewer_pipeline.monitoring.doctor.clocks import judge_clocks
from viewer_pipeline.monitoring.doctor.finding import REASONS, Finding, verdict
from viewer_pipeline.monitoring.doctor.keyspace import Keyspace, judge_keyspace
from viewer_pipeline.monitoring.doctor.pipeline import PipelineReading, judge_pipeline
from viewer_pipeline.monitoring.doctor.postgres_judgements import judge_postgres
from viewer_pipeline.monitoring.doctor.postgres_reading import PostgresReading
from viewer_pipeline.monitoring.doctor.redis_judgements import judge_redis
from viewer_pipeline.monitoring.doctor.redis_reading import RedisReading
from viewer_pipeline.monitoring.rules import REVISION
from viewer_pipeline.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "doctor.md"
POSTGRES = PostgresReading(
    version_number=180_001,
    version="18.1",
    encoding="UTF8",
    standby=False,
    read_only=False,
    fsync=True,
    full_page_writes=True,
    synchronous_commit="on",
    role="me",
    schema=True,
    revision=REVISION,
    lacking=(),
    latency_ms=0.5,
    clock_ahead=0.0,
)
INFO: dict[str, Any] = {
    "redis_version": "7.2.4",
    "role": "master",
    "cluster_enabled": 0,
    "maxmemory": 0,
    "used_memory": 1000,
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "rdb_last_bgsave_status": "ok",
}
CONFIG = {"appendfsync": "everysec", "save": "", "stop-writes-on-bgsave-error": "yes"}
REDIS = RedisReading(0.3, 0.0, INFO, CONFIG)


def of_postgres(name: str, **changes: Any) -> str:
    """Return a finding about a PostgreSQL that is well but for these changes."""
    (found,) = [finding for finding in judge_postgres(replace(POSTGRES, **changes)) if finding.name == name]
    return f"{found.state}: {found.what}"


def of_redis(name: str, info: dict[str, Any], config: dict[str, str] = CONFIG) -> str:
    """Return a finding about a Redis that is well but for these changes."""
    reading = replace(REDIS, info=INFO | info, config=config)
    (found,) = [finding for finding in judge_redis(reading, Settings()) if finding.name == name]
    return f"{found.state}: {found.what}"


def test_well() -> None:
    """Nothing to say against either."""
    assert {finding.state for finding in judge_postgres(POSTGRES)} == {"ok"}
    found = {finding.name: finding.state for finding in judge_redis(REDIS, Settings())}
    assert {name for name, state in found.items() if state != "ok"} == {"redis_durability"}


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("postgres_version", {"version_number": 130_012, "version": "13.12"}, "problem: version 13.12, older than 14"),
        ("postgres_latency", {"latency_ms": 45.0}, "warning: SELECT 1 takes 45.0 ms"),
        ("postgres_writes", {"standby": True, "read_only": True}, "problem: it is in recovery: a standby"),
        ("postgres_durability", {"fsync": False}, "problem: fsync is off: a crash may destroy the database"),
        ("postgres_durability", {"synchronous_commit": "off"}, "problem: synchronous_commit is off: a crash loses"),
        ("postgres_durability", {"full_page_writes": False}, "warning: full_page_writes is off"),
        ("postgres_durability", {"synchronous_commit": "local"}, "note: synchronous_commit is local: a failover"),
        ("postgres_schema", {"revision": ""}, "problem: the schema `viewer` is without a revision"),
        (
            "postgres_schema",
            {"revision": "", "lacking": ("SELECT ON viewer.alembic_version",)},
            "problem: the revision of the schema `viewer` cannot be read",
        ),
    ],
)
def test_postgres(name: str, changes: dict[str, Any], expected: str) -> None:
    """One thing is wrong."""
    assert of_postgres(name, **changes).startswith(expected)


@pytest.mark.parametrize(
    ("name", "info", "expected"),
    [
        ("redis_version", {"redis_version": "6.0.16"}, "problem: redis 6.0.16, older than 6.2"),
        ("redis_version", {"server_name": "valkey", "valkey_version": "8.0.1"}, "ok: valkey 8.0.1"),
        ("redis_version", {"redis_version": "10.0.0"}, "ok: redis 10.0.0"),
        ("redis_cluster", {"cluster_enabled": 1}, "problem: cluster mode is on, which is not supported"),
        ("redis_writes", {"aof_last_write_status": "err"}, "problem: it cannot write its append-only file"),
        ("redis_writes", {"maxmemory": 1200}, "warning: 83% of maxmemory is used"),
        ("redis_writes", {"maxmemory": 1000, "maxmemory_policy": "allkeys-lru"}, "warning: 100% of maxmemory is used"),
        ("redis_writes", {"maxmemory": 1000}, "problem: 100% of maxmemory is used: it refuses writes (OOM)"),
        ("redis_writes", {"maxmemory": 2000}, "ok: it is a primary and takes writes"),
        ("redis_eviction", {"maxmemory_policy": ""}, "warning: Redis does not tell its maxmemory-policy"),
    ],
)
def test_redis(name: str, info: dict[str, Any], expected: str) -> None:
    """One thing is wrong, or only looks so."""
    assert of_redis(name, info).startswith(expected)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"save": "3600 1", "stop-writes-on-bgsave-error": "yes"},
            "problem: its last snapshot failed, and so it refuses",
        ),
        ({"save": "3600 1", "stop-writes-on-bgsave-error": "no"}, "warning: its last snapshot failed"),
        ({"save": "", "stop-writes-on-bgsave-error": "yes"}, "warning: its last snapshot failed"),
        ({}, "warning: its last snapshot failed"),
    ],
)
def test_a_snapshot_that_failed(config: dict[str, str], expected: str) -> None:
    """Redis refuses writes after it only where it makes snapshots and was not told otherwise."""
    assert of_redis("redis_writes", {"rdb_last_bgsave_status": "err"}, config).startswith(expected)


@pytest.mark.parametrize(
    ("postgres", "redis", "expected"),
    [
        (0.1, -0.2, "ok: clocks agree; against this machine: PostgreSQL +0.100 s, Redis -0.200 s"),
        (1.5, -1.5, "warning: clocks are 3.0 s apart; against this machine: PostgreSQL +1.500 s, Redis -1.500 s"),
        (None, 90.0, "warning: clocks are 90.0 s apart; against this machine: Redis +90.000 s"),
    ],
)
def test_clocks(postgres: float | None, redis: float | None, expected: str) -> None:
    """Those of the servers are held against each other and against this machine's."""
    found = judge_clocks(postgres, redis)
    assert found is not None
    assert f"{found.state}: {found.what}" == expected


def test_no_clocks() -> None:
    """No server, no clock."""
    assert judge_clocks(None, None) is None


def test_a_sweep_that_takes_long() -> None:
    """Sixty million keys at half a millisecond for a thousand."""
    space = Keyspace(keys=60_000_000, scans=300, scan_ms=0.5, whole=False, counters=12, looked_at=12)
    sweep = next(judge_keyspace(space, "c:"))
    assert (sweep.state, sweep.figures["sweep_seconds"]) == ("warning", 30.0)
    assert sweep.what.startswith(
        "60000000 keys, 12 counters c:* among the first 300000: a sweep makes 60000 SCAN calls"
    )


def test_verdict() -> None:
    """The worst of all."""
    findings = [Finding("redis", "ok", ""), Finding("clock", "warning", ""), Finding("target", "note", "")]
    assert (verdict(findings), verdict([])) == ("warning", "ok")
    assert verdict([*findings, Finding("sweep", "problem", "")]) == "problem"


def test_passwords_are_not_shown() -> None:
    """Whatever a driver cites."""
    found = Finding("redis", "problem", "redis://me:s3cret@host:1 refused", "try postgres://you:pa55@x")
    assert "s3cret" not in str(found.shown())
    assert "pa55" not in str(found.shown())


def test_the_page_has_every_finding() -> None:
    """Each name once, in the order of the report, each with what to do; no other."""
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|(.*)\|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, *_ in rows] == list(REASONS)
    assert [name for name, *cells in rows if not all(cell.strip() for cell in cells)] == []


OURS = LedgerIdentity("id", "7", 5, "db:5432/views")


def about(**changed: Any) -> dict[str, Finding]:
    """Judge a pipeline that is well, but for what is changed."""
    known = [Pipeline("vod:views:", OURS.key, OURS.place), Pipeline("shop:", "other/7/6", "db:5432/shop")]
    reading = PipelineReading("vod:views:", OURS, "", known)._replace(**changed)
    return {finding.name: finding for finding in judge_pipeline(reading)}


def test_pipelines_on_one_redis() -> None:
    """The others are named; a refusal is a problem; what cannot be distinguished is reported, with the remedy."""
    well = about()
    assert (well["pipeline"].state, well["ledger_identity"].state) == ("ok", "ok")
    assert "shop:* of db:5432/shop" in well["pipeline"].what
    refused = about(refused="the counters are settled by another database")["pipeline"]
    assert (refused.state, refused.what) == ("problem", "the counters are settled by another database")
    unknown = about(identity=OURS._replace(system="unknown"))["ledger_identity"]
    assert (unknown.state, "pg_control_system" in unknown.do) == ("warning", True)
    assert "would be taken for the original" in unknown.what
    recorded = about(known=[Pipeline("vod:views:", "id/unknown/5", OURS.place)])["ledger_identity"]
    assert (recorded.state, "adopt" in recorded.do) == ("warning", True)
