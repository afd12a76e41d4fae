"""Servers that TEST_DATABASE_URL and TEST_REDIS_URL name: nothing of somebody else's is lost on them."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest
import redis

from tools.matrix import Binary, all_postgres, all_redis, pairs
from viewer_pipeline_tests.support.servers import (
    NamedPostgres,
    NamedRedis,
    Postgres,
    UnusableServer,
    postgres_binaries,
    redis_binary,
    redis_of_worker,
)


def test_a_redis_that_holds_something_is_not_emptied(client: redis.Redis, redis_url: str) -> None:
    """Also in another database, which a flush of all of them would take along."""
    other = redis.Redis.from_url(redis_url.removesuffix("/0") + "/7")
    other.set("somebody's", "else")
    with pytest.raises(UnusableServer, match="holds keys, and the tests empty it"):
        NamedRedis(redis_url).start()
    assert other.get("somebody's") == b"else"
    other.close()
    client.flushall()


def test_a_redis_is_left_as_it_was_found(client: redis.Redis, redis_url: str) -> None:
    """Empty, and with its own configuration; meanwhile with that of the embedded one."""
    before = client.config_get("save")
    client.config_set("save", "3600 1")
    try:
        named = NamedRedis(redis_url)
        named.start()
        assert client.config_get("save") == {"save": ""}
        assert named.directory.is_absolute()
        client.incr("of a test")
        named.stop()
        assert client.config_get("save") == {"save": "3600 1"}
        assert client.dbsize() == 0
    finally:
        client.config_set("save", str(before["save"]))


@pytest.mark.parametrize(
    "url", ["redis://h:1/3", "rediss://h:1/0", "redis://me:secret@h:1/0", "redis://h:1/0?protocol=3", "unix:///x"]
)
def test_urls_that_tests_could_not_use(url: str) -> None:
    """They put logins and databases of their own into it."""
    with pytest.raises(UnusableServer, match="expected redis://host:port/0, without a login") as raised:
        NamedRedis(url)
    assert "secret" not in str(raised.value)


def test_a_redis_serves_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker more than servers gets an error, and does not share."""
    monkeypatch.setenv("TEST_REDIS_URL", "redis://a:1 redis://b:2/0")
    servers = [redis_of_worker(f"gw{number}") for number in (0, 1)]
    assert [named.url for named in servers if named] == ["redis://a:1/0", "redis://b:2/0"]
    with pytest.raises(UnusableServer, match="names 2 servers, but 3 tests"):
        redis_of_worker("gw2")
    monkeypatch.delenv("TEST_REDIS_URL")
    assert redis_of_worker("gw2") is None


def test_role_without_rights_is_named(postgres_server: Postgres) -> None:
    """At the start, and not by a hundred tests."""
    role, where = "narrow_" + os.urandom(6).hex(), postgres_server.url_of_database("postgres").rpartition("@")[2]
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CREATEDB CREATEROLE")
        try:
            with pytest.raises(UnusableServer, match=f"{role} must be a superuser"):
                NamedPostgres(f"postgresql://{role}:x@{where}").start()
            connection.execute(f"ALTER ROLE {role} SUPERUSER")
            NamedPostgres(f"postgresql://{role}:x@{where}").start()
        finally:
            connection.execute(f"DROP ROLE {role}")


def test_the_other_parameters_of_the_url_stay() -> None:
    """Another database is all that changes."""
    named = NamedPostgres("postgresql://me:pw@db:5433/mine?sslmode=require")
    assert named.url_of_database("x") == "postgresql://me:pw@db:5433/x?sslmode=require"


def test_what_tests_start_is_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine has."""
    monkeypatch.setenv("TEST_POSTGRES_BIN", "/opt/pg/bin")
    monkeypatch.setenv("TEST_REDIS_SERVER", "/opt/redis/redis-server")
    assert (postgres_binaries(), redis_binary()) == (Path("/opt/pg/bin"), Path("/opt/redis/redis-server"))


def test_the_matrix_has_each_server_once() -> None:
    """Those of this machine, with their versions; and every pair where that is asked for."""
    postgreses, redises = all_postgres(), all_redis()
    versions = [binary.version for binary in (*postgreses, *redises)]
    assert len(set(versions)) == len(versions) >= 2
    assert all(version.partition(" ")[0] in {"PostgreSQL", "Redis", "Valkey"} for version in versions)
    binaries = [Binary(Path(name), name) for name in "abc"]
    assert pairs(binaries, binaries[:1], every=False) == [(binary, binaries[0]) for binary in binaries]
    assert pairs(binaries[:1], binaries[:2], every=False) == [(binaries[0], binaries[0]), (binaries[0], binaries[1])]
    assert len(pairs(binaries, binaries, every=True)) == 9
