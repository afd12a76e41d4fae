"""`viewer-pipeline doctor` and `grants` from outside: exit status, report, JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from viewer_pipeline.monitoring.doctor.check_rationales import CHECK_RATIONALES
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline_tests.acceptance.test_cli import (
    Environment,
    environment,
    error_of,
    json_of,
    online,
    usage_error_of,
)
from viewer_pipeline_tests.support.warm import run

__all__ = ["environment", "online"]


@pytest.fixture
def durable(environment: Environment, tmp_path: Path) -> Iterator[Environment]:
    """Servers that keep what they are given, as one has them in production."""
    postgres, redis = PostgresServer(tmp_path / "servers"), RedisServer(tmp_path / "servers", append_only=True)
    postgres.start()
    redis.start()
    try:
        yield {**environment, "DATABASE_URL": postgres.url, "REDIS_URL": redis.url}
    finally:
        redis.stop()
        postgres.stop()


def test_exit_status_is_0_unless_a_check_is_unhealthy(durable: Environment) -> None:
    """1 before the migration; after it, and before the first start, checks are only degraded."""
    assert run(durable, "doctor").returncode == 1
    assert run(durable, "migrate").returncode == 0
    done = run(durable, "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  healthy    postgres_durability: fsync is on, synchronous_commit is on\n" in done.stdout
    assert "daemon_freshness_daemon: Dagster has never run on this database " in " ".join(done.stdout.split())
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert "not exact  Redis is killed, or its machine loses power: with appendfsync" in done.stdout
    assert done.stdout.rstrip().endswith(" healthy: the whole is degraded")


def test_unhealthy_check_as_json(online: Environment) -> None:
    """Exit status 1; the shape of /health."""
    report = json_of(run(online, "doctor", "--watch-producers", "1", "--json"), 1)
    assert list(report) == ["status", "timestamp", "checks", "guarantee"]
    assert report["guarantee"]["postgres_crash"] == {
        "holds": "not exact",
        "fault": "PostgreSQL is killed, or its machine loses power",
        "reason": "fsync is off, so the database may be destroyed",
        "remedy": "fsync = on",
    }
    assert (report["status"], list(report["checks"])) == (
        "unhealthy",
        [n for n in CHECK_RATIONALES if n in report["checks"]],
    )
    unhealthy = {name: check for name, check in report["checks"].items() if check["status"] == "unhealthy"}
    assert unhealthy == {
        "postgres_durability": {
            "status": "unhealthy",
            "message": "fsync is off: a crash may destroy the database",
            "remedy": "set fsync = on",
            "details": {
                "fsync": False,
                "full_page_writes": False,
                "synchronous_commit": "on",
                "synchronous_standby_names": "",
                "standbys": 0,
                "can_wait": True,
            },
        }
    }
    assert report["checks"]["pubsub_mode"]["details"]["views"] == 0


def test_servers_out_of_reach(environment: Environment) -> None:
    """They are results, not errors; no password is shown."""
    nowhere = {"DATABASE_URL": f"postgresql://me:s3cret@{LOOPBACK}:1/x", "REDIS_URL": f"redis://:s3cret@{LOOPBACK}:1/0"}
    done = run({**environment, **nowhere}, "doctor")
    assert done.returncode == 1
    assert "  unhealthy  postgres: PostgreSQL is unavailable" in done.stdout
    assert "  unhealthy  redis, redis_memory: Redis does not answer:" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "postgresql://host/x"}, "REDIS_URL is not set"),
        ({"BATCH_SIZE": "many"}, "BATCH_SIZE='many'"),
        (
            {"REDIS_URL": "redis://:pw@host?what=1"},
            "REDIS_URL='redis://:***@host?what=1': what='1': expected a parameter",
        ),
    ],
)
def test_settings_that_cannot_be_used(environment: Environment, variables: Environment, expected: str) -> None:
    """Exit status 2, before anything is checked."""
    assert expected in error_of(run({**environment, **variables}, "doctor"), 2)


def test_grants(environment: Environment) -> None:
    """For the settings, without a server; a table on the command line overrides them."""
    variables = {**environment, "TARGET_TABLE": "public.Vod", "COUNTER_PREFIX": "views:"}
    text = run(variables, "grants").stdout
    assert 'ON "public"."Vod" TO "viewer_pipeline";' in text
    grants = json_of(run(variables, "grants", "--target", "shop.Video", "--role", "narrow", "--json"))
    assert grants["sql"][-1] == 'GRANT SELECT ("id", "viewCount"), UPDATE ("viewCount") ON "shop"."Video" TO "narrow";'
    assert " ~views:* " in grants["redis"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--target", "a.b.c"), "Invalid value for '--target': expected table or schema.table"),
        (("--role", "a b"), "Invalid value for '--role': 'a b': expected a name without blanks"),
        (("--role", ""), "Invalid value for '--role': '': expected a name of 1 to 63 bytes"),
        (("--role", "x" * 64), "Invalid value for '--role': 'xxx"),
    ],
)
def test_grants_for_names_that_are_none(environment: Environment, arguments: tuple[str, ...], expected: str) -> None:
    """Exit status 2."""
    assert usage_error_of(run(environment, "grants", *arguments)).startswith(expected)
