"""Two servers behind one address, of Redis or of PostgreSQL, and a failover that closes no connection."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg
import redis

from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.stack.managed_process import run_as_user
from viewer_pipeline.stack.postgres_server import PostgresServer, find_postgres_bin_directory
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline_tests.support.proxy import LOOPBACK, Proxy
from viewer_pipeline_tests.support.waiting import wait_until

FAILOVER_SECONDS = 30
STANDBY_REPORTS = "SELECT pid FROM pg_stat_replication WHERE replay_lsn IS NOT NULL"


class Servers(Protocol):
    """Servers that belong together."""

    def start(self) -> None:
        """Start all."""

    def stop(self) -> None:
        """Stop those that run."""


S = TypeVar("S", bound=Servers)


@contextmanager
def started(servers: S) -> Iterator[S]:
    """Start servers, and stop them at the end, also if not all of them started."""
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


class RedisPair:
    """A primary and its replica, behind a proxy as behind a load balancer. `stop` ends all of them."""

    def __init__(self, directory: Path) -> None:
        self.servers = [RedisServer(directory / name, append_only=False) for name in ("one", "two")]
        self.clients: list[redis.Redis] = []
        self._proxy = Proxy(LOOPBACK, 1)

    @property
    def url(self) -> str:
        """The address of both servers."""
        return self._proxy.url(self.servers[0].url)

    @property
    def primary(self) -> redis.Redis:
        """A client of the first server, which is the primary until it is demoted."""
        return self.clients[0]

    @property
    def promoted(self) -> redis.Redis:
        """A client of the second server, which becomes the primary."""
        return self.clients[1]

    def start(self) -> None:
        """Start both, and wait until the replica is in sync."""
        self._proxy.__enter__()
        for server in self.servers:
            server.start()
            client = redis.Redis(LOOPBACK, server.port, protocol=2)
            client.config_set("repl-diskless-sync-delay", 0)
            client.config_set("repl-ping-replica-period", 1)
            self.clients.append(client)
        self._proxy.retarget(self.servers[0].url)
        self.promoted.replicaof(LOOPBACK, str(self.servers[0].port))
        wait_until(lambda: replication(self.promoted).get("master_link_status") == "up", FAILOVER_SECONDS, "a replica")

    def demote(self) -> None:
        """Swap the roles in a coordinated failover: the old primary becomes a replica and keeps its clients."""
        command: Any = self.primary.execute_command
        command("FAILOVER", "TO", LOOPBACK, self.servers[1].port)
        roles: Callable[[], list[str]] = lambda: [replication(client)["role"] for client in self.clients]  # noqa: E731
        wait_until(lambda: roles() == ["slave", "master"], FAILOVER_SECONDS, "the failover")
        wait_until(lambda: replication(self.primary)["master_link_status"] == "up", FAILOVER_SECONDS, "a replica again")

    def separate(self) -> None:
        """Promote the second server. The first becomes a replica of an address where no server runs."""
        self.promoted.replicaof("NO", "ONE")
        self.primary.replicaof(LOOPBACK, "1")

    def lead_to_the_new(self) -> None:
        """Let new connections to the address reach the second server; existing ones stay where they are."""
        self._proxy.retarget(self.servers[1].url)

    def stop(self) -> None:
        """Stop all."""
        self._proxy.__exit__(None, None, None)
        for client in self.clients:
            client.close()
        for server in self.servers:
            server.process.stop()


def replication(client: redis.Redis) -> dict[str, Any]:
    """Return the section `replication` of INFO."""
    return dict(client.info("replication"))


class PostgresPair:
    """A primary and its hot standby, behind a proxy. `stop` ends all of them. `throw_away`: they sync nothing."""

    def __init__(self, directory: Path, *, throw_away: bool = True) -> None:
        self._directory, self._throw_away = directory, throw_away
        self.primary = PostgresServer(directory / "one", throw_away=throw_away)
        self.standby = self.primary  # until the copy is made
        self.proxy = Proxy(LOOPBACK, self.primary.port)

    @property
    def url(self) -> str:
        """The address of both servers."""
        return self.proxy.url(self.primary.url)

    def start(self) -> None:
        """Start all, with a migrated database, and wait until the standby reports what it has."""
        self.proxy.__enter__()
        self.primary.start()
        migrate(self.primary.url, with_dagster=False)
        self.lead_to(self.primary)
        self.standby = self.copy("two")
        self.standby.start()
        with psycopg.connect(self.primary.url_of_database("postgres"), autocommit=True) as connection:
            wait_until(lambda: connection.execute(STANDBY_REPORTS).fetchone(), FAILOVER_SECONDS, "a standby")

    def lead_to(self, server: PostgresServer) -> None:
        """Let new connections to the address reach this server; existing ones stay where they are."""
        self.proxy.retarget(server.url)

    def fence(self) -> None:
        """Make the old primary read-only, as some failovers do; it keeps its clients."""
        self._run(self.primary, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        with psycopg.connect(self.primary.url_of_database("postgres")) as connection:
            is_on: Any = lambda: connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)  # noqa: E731
            wait_until(is_on, FAILOVER_SECONDS, "read-only transactions")

    def fall_behind(self) -> None:
        """Pause the replay of the standby."""
        self._run(self.standby, "SELECT pg_wal_replay_pause()")

    def separate(self) -> None:
        """End replication to the standby."""
        self._run(self.standby, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        with psycopg.connect(self.standby.url_of_database("postgres"), autocommit=True) as connection:
            is_idle: Any = lambda: connection.execute("SELECT FROM pg_stat_wal_receiver").fetchone() is None  # noqa: E731
            wait_until(is_idle, FAILOVER_SECONDS, "the standby receives nothing")

    def promote(self) -> None:
        """Make the standby the primary."""
        self._run(self.standby, "SELECT pg_promote()")

    def end_connections(self) -> None:
        """End the connections of all clients, to both servers."""
        others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        for server in (self.primary, self.standby):
            self._run(server, f"SELECT pg_terminate_backend(pid) {others}")

    def catch_up(self) -> None:
        """Wait until the standby has everything that the primary has committed.

        A commit of this server returns before it is written (synchronous_commit is off), so the method writes a record
        after it, and waits for that record.
        """
        with psycopg.connect(self.primary.url_of_database("postgres"), autocommit=True) as connection:
            row = connection.execute("SELECT pg_create_restore_point('caught up')::text").fetchone()
            has_it = "SELECT 1 FROM pg_stat_replication WHERE replay_lsn >= %s::pg_lsn"
            wait_until(lambda: connection.execute(has_it, row).fetchone(), FAILOVER_SECONDS, "the standby catches up")

    def stop(self) -> None:
        """Stop all."""
        self.proxy.__exit__(None, None, None)
        self.standby.stop()
        self.primary.stop()

    def copy(self, name: str, *settings: str) -> PostgresServer:
        """Make a hot standby of the primary, with more settings of PostgreSQL as `name=value`. It is not started."""
        home = self._directory / name
        home.mkdir()
        shutil.copyfile(self._directory / "one" / "postgres.password", home / "postgres.password")
        standby = PostgresServer(home, throw_away=self._throw_away, settings=settings)
        standby.directory.mkdir(mode=0o700)
        if standby._user is not None:
            os.chown(standby.directory, pwd.getpwnam(standby._user).pw_uid, -1)
        options: list[str | Path] = [
            "-D",
            standby.directory,
            "-d",
            self.primary.url_of_database("postgres"),
            "-c",
            "fast",
        ]
        done = run_as_user(standby._user, [find_postgres_bin_directory() / "pg_basebackup", *options])
        assert done.returncode == 0, done.stderr
        # Not by the option -R of a program that may be newer than the server: it writes what an older server rejects.
        with (standby.directory / "postgresql.auto.conf").open("a") as configuration:
            configuration.write(f"primary_conninfo = '{self.primary.url_of_database('postgres')}'\n")
        (standby.directory / "standby.signal").touch()
        return standby

    @staticmethod
    def _run(server: PostgresServer, *statements: str) -> None:
        with psycopg.connect(server.url_of_database("postgres"), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)
