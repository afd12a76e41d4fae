"""A real PgBouncer in front of the PostgreSQL of the tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline.stack.postgres_server import _find_user_instead_of_root
from viewer_pipeline_tests.support.waiting import wait_until

POOL_SIZE = 2  # fewer than the clients, so that they share connections
START_SECONDS = 20
DEBIAN = "/usr/sbin"


def pgbouncer_binary() -> str:
    """Return its path; skip the test if it is not installed."""
    path = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:{DEBIAN}")
    if path is None:
        pytest.skip("no pgbouncer here; on Debian: apt-get install pgbouncer")
    return path


class PgBouncer:
    """One PgBouncer for every database of a server; `server_port` may be that of a proxy.

    `pool_mode`: what a client has one connection to PostgreSQL for, `transaction` or `session`. `ignores_options`: it
    takes the startup parameter `options` and does nothing with it, instead of refusing it.
    """

    def __init__(
        self,
        home: Path,
        database_url: str,
        server_port: int | None = None,
        pool_mode: str = "transaction",
        *,
        pool_size: int = POOL_SIZE,
        ignores_options: bool = False,
    ) -> None:
        login = urlsplit(database_url)
        home.mkdir()
        users, configuration = home / "users.txt", home / "pgbouncer.ini"
        users.write_text(f'"{login.username}" "{login.password}"\n')
        self.port = find_free_port()
        settings = {
            "listen_addr": LOOPBACK,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "pool_mode": pool_mode,
            "default_pool_size": pool_size,
            "max_client_conn": 100,
            "server_login_retry": 1,
            "ignore_startup_parameters": "options" if ignores_options else "",
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        server = f"* = host={LOOPBACK} port={server_port or login.port}"
        configuration.write_text("\n".join(["[databases]", server, "[pgbouncer]", *lines, ""]))
        user = (
            _find_user_instead_of_root() if os.geteuid() == 0 else None
        )  # it refuses to run as root, as PostgreSQL does
        self._child = ManagedProcess(
            "pgbouncer", [pgbouncer_binary(), configuration], log=home / "pgbouncer.log", grace_seconds=5, user=user
        )
        self._database_url = database_url

    def url(self, parameters: str = "pgbouncer=true") -> str:
        """URL of the database through it."""
        parts = urlsplit(self._database_url)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@{LOOPBACK}:{self.port}", query=parameters))

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        self._child.start()
        wait_until(self._accepts, START_SECONDS, f"PgBouncer accepts connections: {self._child.log_tail()}")

    def stop(self) -> None:
        """Stop it immediately, which breaks all client connections."""
        self._child.stop()

    def restart(self) -> None:
        """Stop it, and start it on the same port."""
        self.stop()
        self.start()

    def _accepts(self) -> bool:
        assert self._child.exit_status() is None, self._child.log_tail()
        try:
            psycopg.connect(self.url(""), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True
