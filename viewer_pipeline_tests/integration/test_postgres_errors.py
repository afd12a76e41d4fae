"""Errors of real PostgreSQL servers that need a person, or time: each has its class, its sentence and its remedy."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from viewer_pipeline.cli.container_healthchecks import NotHealthy, require_healthy_worker
from viewer_pipeline.definitions import defs
from viewer_pipeline.errors import (
    PostgresDeniesRight,
    PostgresFailed,
    PostgresRefusesConnections,
    PostgresUnavailable,
    TransactionAborted,
    ViewerPipelineError,
)
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import last_flush
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.monitoring.doctor.run_checks import run_doctor_checks
from viewer_pipeline.orchestration.dagster_instance import open_instance
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.streams import WHOLE
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.pgbouncer import PgBouncer
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.worker_process import WorkerProcess, publish
from viewer_pipeline_tests.support.world import PREFIX, World

ROLES = (
    "CREATE ROLE plain LOGIN PASSWORD 's3cret'",
    "CREATE ROLE nologin PASSWORD 's3cret'",
    "CREATE ROLE rejected LOGIN PASSWORD 's3cret'",
    "CREATE ROLE stranger LOGIN PASSWORD 's3cret'",
    "CREATE ROLE busy LOGIN PASSWORD 's3cret' CONNECTION LIMIT 0",
    "CREATE ROLE duty",
    "CREATE ROLE vault LOGIN PASSWORD 's3cret' IN ROLE duty",
    "ALTER ROLE vault SET role = duty",
    "CREATE DATABASE private",
    "REVOKE CONNECT ON DATABASE private FROM PUBLIC",
    "CREATE DATABASE frozen ALLOW_CONNECTIONS false",
    "CREATE DATABASE crowded CONNECTION LIMIT 0",
)
ACCESS = """
host all rejected all reject
host all ghost all trust
host all viewer,plain,vault,nologin,busy,nobody,late all scram-sha-256
"""
DAEMON = "viewer_pipeline.orchestration.daemon_with_clock_watch"
REFUSED, UNAVAILABLE = PostgresRefusesConnections, PostgresUnavailable


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, _own_servers: None) -> Iterator[PostgresServer]:
    """A server of its own, whose pg_hba.conf does not admit everybody."""
    server = PostgresServer(tmp_path_factory.mktemp("errors"), throw_away=True)
    try:
        server.start()
        with psycopg.connect(server.url, autocommit=True) as connection:
            for statement in ROLES:
                connection.execute(statement)
        server.stop()
        (server.directory / "pg_hba.conf").write_text(ACCESS)
        server.start()
        yield server
    finally:
        server.stop()


def error_of_connecting(url: str) -> ViewerPipelineError:
    """Connect as a run does; return the error."""
    with pytest.raises(ViewerPipelineError) as raised, Ledger(url).connect():
        pass
    return raised.value


@pytest.mark.parametrize(
    ("url", "error", "sentence", "remedy"),
    [
        (
            "viewer:wr0ng@{}/viewer",
            REFUSED,
            'wrong password, or there is no role "viewer" (FATAL: ',
            "correct user and",
        ),
        ("nobody:wr0ng@{}/viewer", REFUSED, 'wrong password, or there is no role "nobody"', "correct user and"),
        ("plain@{}/viewer", REFUSED, 'a password is required for role "plain", and none is given', "PGPASSWORD"),
        ("ghost@{}/viewer", REFUSED, 'there is no role "ghost"', 'CREATE ROLE "ghost" LOGIN'),
        ("nologin:s3cret@{}/viewer", REFUSED, 'role "nologin" may not log in', 'ALTER ROLE "nologin" LOGIN'),
        ("rejected:s3cret@{}/viewer", REFUSED, "pg_hba.conf does not admit this client", "pg_hba.conf"),
        ("stranger:s3cret@{}/viewer", REFUSED, "pg_hba.conf does not admit this client", "sslmode=require"),
        ("plain:s3cret@{}/nowhere", REFUSED, 'there is no database "nowhere"', "correct the database"),
        (
            "plain:s3cret@{}/private",
            REFUSED,
            'role "plain" may not connect to database "private"',
            'GRANT CONNECT ON DATABASE "private" TO "plain"',
        ),
        ("plain:s3cret@{}/frozen", UNAVAILABLE, "refused (FATAL: database", "do what the quoted text asks for"),
        ("plain:s3cret@{}/viewer?sslmode=require", REFUSED, "the server does not offer it", "ssl = on"),
        ("plain:s3cret@{}/viewer?channel_binding=require", REFUSED, "the server does not offer it", "sslmode=disable"),
        ("plain:s3cret@{}/viewer?options=-cno_such%3D1", PostgresFailed, "a configuration parameter is", "`options`"),
        (
            "plain:s3cret@{}/viewer?options=-clog_connections%3D1",
            PostgresFailed,
            "parameter is unknown, or",
            "`options`",
        ),
        ("plain:s3cret@{}/viewer?options=word", REFUSED, "does not accept a setting of the URL", "PGTZ"),
        ("busy:s3cret@{}/viewer", UNAVAILABLE, "takes no more connections (FATAL: too many", "raise the limit"),
        ("plain:s3cret@{}/crowded", UNAVAILABLE, "takes no more connections", "raise the limit"),
    ],
)
def test_a_refused_login_is_specific(
    server: PostgresServer, url: str, error: type[ViewerPipelineError], sentence: str, remedy: str
) -> None:
    """One sentence with the names, and what to do; the password is in neither."""
    url = "postgresql://" + url.format(f"{LOOPBACK}:{server.port}")
    for raised in (error_of_connecting(url), error_of_migrating(url)):
        assert type(raised) is error
        assert sentence in str(raised)
        assert remedy in raised.remedy
        assert not re.search("s3cret|wr0ng", f"{raised} {raised.remedy}")


def error_of_migrating(url: str) -> ViewerPipelineError:
    """Migrate; return the error."""
    with pytest.raises(ViewerPipelineError) as raised:
        migrate(url, with_dagster=True)
    return raised.value


def test_a_right_is_granted_to_the_role_of_the_session(server: PostgresServer) -> None:
    """Logins that are made for a day, as Vault makes them, take the role whose rights count (ALTER ROLE … SET role)."""
    url = f"postgresql://vault:s3cret@{LOOPBACK}:{server.port}/viewer"
    with pytest.raises(PostgresDeniesRight) as denied, Ledger(url).connect() as connection:
        connection.execute("CREATE SCHEMA nowhere")
    for error in (denied.value, error_of_migrating(url)):
        assert error.remedy == 'GRANT CREATE ON DATABASE "viewer" TO "duty"'


@pytest.mark.parametrize("login", ["viewer:wr0ng", "ghost"])
def test_dagsters_storage_gets_the_same_sentence(
    server: PostgresServer, login: str, dagster_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver is another one, and Dagster hides what it says behind "too many retries for DB connection"."""
    url = f"postgresql://{login}@{LOOPBACK}:{server.port}/viewer"
    settings = dagster_settings.copy_unvalidated(dagster_database_url=url)
    for name, value in settings.child_process_environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        PostgresRefusesConnections, match=r"Dagster's storage: postgresql://.*there is no role"
    ) as raised:
        open_instance(settings)
    assert "correct" in raised.value.remedy
    if login != "ghost":  # it tries for ten seconds
        return
    daemon = subprocess.run([sys.executable, "-m", DAEMON], capture_output=True, text=True, check=False)
    lines = [f"error: {raised.value}", f"remedy: {raised.value.remedy}"]
    assert (daemon.returncode, daemon.stderr.splitlines()[-2:]) == (1, lines)
    assert "Traceback" not in daemon.stderr


def test_nothing_listens() -> None:
    """Host and port are named, of every address; it can be tried again."""
    port = find_free_port()
    raised = error_of_connecting(f"postgresql://viewer:s3cret@{LOOPBACK}:{port},{LOOPBACK}:{port + 1}/viewer")
    assert type(raised) is PostgresUnavailable
    assert f"nothing listens on {LOOPBACK}:{port + 1}, {LOOPBACK}:{port} (Connection refused)" in str(raised)
    assert "listen_addresses" in raised.remedy


def test_a_refused_login_outweighs_a_server_that_is_down(server: PostgresServer) -> None:
    """Of two hosts one is down and the other refuses the password: the password is to be corrected."""
    hosts = f"{LOOPBACK}:{find_free_port()},{LOOPBACK}:{server.port}"
    raised = error_of_connecting(f"postgresql://viewer:wr0ng@{hosts}/viewer")
    assert type(raised) is PostgresRefusesConnections
    assert "wrong password" in str(raised)
    assert f"{LOOPBACK}:{server.port}: FATAL: password authentication failed" in str(raised)
    assert "\n" not in str(raised)


def test_a_host_name_without_an_address() -> None:
    """It may be a fault of the name server, so it can be tried again."""
    raised = error_of_connecting("postgresql://viewer:s3cret@no-such-host.invalid/viewer")
    assert type(raised) is PostgresUnavailable
    assert "the host name of the URL cannot be resolved" in str(raised)
    assert "name server" in raised.remedy


def test_a_silent_host() -> None:
    """A firewall that drops packets looks the same."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        port = silent.getsockname()[1]
        raised = error_of_connecting(f"postgresql://viewer:s3cret@{LOOPBACK}:{port}/viewer?connect_timeout=2")
    assert type(raised) is PostgresUnavailable
    assert "no answer from the host of the URL (connection timeout expired)" in str(raised)
    assert "firewall" in raised.remedy


@pytest.mark.usefixtures("_own_servers")
def test_a_server_that_starts_or_stops_is_tried_again(tmp_path: Path) -> None:
    """A standby that accepts no queries, and a server whose last session continues."""
    server = PostgresServer(tmp_path, throw_away=True, settings=["hot_standby=off"])
    server.start()
    try:
        with psycopg.connect(server.url):
            [postmaster, *_] = server.process.descendant_pids()
            os.kill(postmaster, signal.SIGTERM)  # a smart shutdown: it waits for sessions
            wait_until(lambda: "shutting down" in str(error_of_connecting(server.url)), 20, "it refuses new sessions")
            raised = error_of_connecting(server.url)
        assert (type(raised), "PostgreSQL is starting or stopping" in str(raised)) == (PostgresUnavailable, True)
        server.stop()
        (server.directory / "standby.signal").touch()
        server.process.start()
        wait_until(
            lambda: "not accepting connections" in str(error_of_connecting(server.url)), 20, "it waits for a primary"
        )
        raised = error_of_connecting(server.url)
        assert (type(raised), "PostgreSQL is starting or stopping" in str(raised)) == (PostgresUnavailable, True)
    finally:
        server.stop()


@pytest.fixture
def newcomer(world: World) -> Iterator[tuple[str, str]]:
    """Name and URL of a role that may log in to a migrated database, and no more."""
    role = "New-Comer_" + os.urandom(4).hex()
    world.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 's3cret'")
    address = world.stores.ledger.url.rpartition("@")[2]
    yield role, f"postgresql://{role}:s3cret@{address}"
    world.execute(f'DROP OWNED BY "{role}"')
    world.execute(f'DROP ROLE "{role}"')


def test_a_missing_right_is_named_with_its_grant(world: World, newcomer: tuple[str, str]) -> None:
    """Schema, then table: what the remedy says is enough for the next step."""
    role, url = newcomer

    def read() -> ViewerPipelineError:
        with pytest.raises(PostgresDeniesRight) as raised, Ledger(url).connect() as connection:
            last_flush(connection, WHOLE)
        return raised.value

    for sentence in (f'role "{role}" may not use schema viewer', f'role "{role}" may not use table viewer.flush'):
        raised = read()
        assert sentence in str(raised)
        world.execute(raised.remedy.partition(";")[0])
    with Ledger(url).connect() as connection:
        assert last_flush(connection, WHOLE).seq == 0


def test_health_shows_the_grant(world: World, newcomer: tuple[str, str], redis_url: str) -> None:
    """The checks of /health, status and the doctor have the remedy of the error."""
    role, url = newcomer
    results = by_name(run_doctor_checks(Settings(database_url=url, redis_url=redis_url)))
    assert results["postgres"].message.startswith("PostgreSQL denies a right: ")
    assert results["postgres"].remedy.startswith(f'GRANT USAGE ON SCHEMA viewer TO "{role}"')
    world.execute(f'GRANT USAGE ON SCHEMA viewer TO "{role}"')
    world.execute(f'GRANT SELECT ON viewer.alembic_version TO "{role}"')
    results = by_name(run_doctor_checks(Settings(database_url=url, redis_url=redis_url)))
    privileges = results["postgres_privileges"]
    assert privileges.remedy.startswith(f'as the owner: GRANT INSERT ON viewer.baseline_taken TO "{role}"; GRANT ')


def test_migrate_and_doctor_name_the_right_to_create_schemas(server: PostgresServer, redis_url: str) -> None:
    """The schemas are missing, and this role may not create them."""
    url = f"postgresql://plain:s3cret@{LOOPBACK}:{server.port}/viewer"
    grant = 'GRANT CREATE ON DATABASE "viewer" TO "plain"'
    raised = error_of_migrating(url)
    assert type(raised) is PostgresDeniesRight
    assert 'role "plain" may not create schemas in database "viewer"' in str(raised)
    assert raised.remedy == grant
    result = by_name(run_doctor_checks(Settings(database_url=url, redis_url=redis_url)))["postgres_privileges"]
    assert (result.status, result.message) == ("unhealthy", 'role plain has no CREATE ON DATABASE "viewer"')
    assert grant in result.remedy
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(grant)
        try:
            assert migrate(url, with_dagster=True)[0] is None
        finally:
            connection.execute("DROP OWNED BY plain")


def test_an_upgrade_needs_the_owner_of_the_tables(world: World, newcomer: tuple[str, str]) -> None:
    """Before anything is changed, the owner is named; then the right to create tables."""
    role, url = newcomer
    world.execute("UPDATE viewer.alembic_version SET version_num = '0007'")
    world.execute(f'GRANT USAGE ON SCHEMA viewer TO "{role}"')
    world.execute(f'GRANT SELECT, UPDATE ON viewer.alembic_version TO "{role}"')
    raised = error_of_migrating(url)
    assert type(raised) is PostgresDeniesRight
    assert f'role "{role}" does not own the tables of schema viewer; ' in str(raised)
    assert raised.remedy == 'run `viewer-pipeline migrate` as role "viewer"'


def test_aborted_transactions(world: World) -> None:
    """A lock that another session holds, and a statement that takes too long."""
    url = world.stores.ledger.url
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE viewer.parked")
        lock = "SET LOCAL lock_timeout = '10ms'; LOCK TABLE viewer.parked"
        with (
            pytest.raises(TransactionAborted, match="a lock was not free in time"),
            Ledger(url).connect() as connection,
        ):
            connection.execute(lock)
    sleep = "SET LOCAL statement_timeout = '10ms'; SELECT pg_sleep(60)"
    with pytest.raises(TransactionAborted, match="took too long") as raised, Ledger(url).connect() as connection:
        connection.execute(sleep)
    assert "pg_stat_activity" in raised.value.remedy


def test_a_session_that_an_administrator_ends(world: World) -> None:
    """Not a mistake in the settings: it is tried again."""
    url = world.stores.ledger.url
    end = "SELECT pg_terminate_backend(pg_backend_pid())"
    with (
        pytest.raises(PostgresUnavailable, match="somebody ended this connection"),
        Ledger(url).connect() as connection,
    ):
        connection.execute(end)


def test_texts_of_pgbouncer(tmp_path: Path, world: World, newcomer: tuple[str, str]) -> None:
    """Its own texts: a wrong password, a database that its server lacks, and a server that does not let it in."""
    role, url = newcomer
    pooler = PgBouncer(tmp_path / "pooler", url)
    configuration = tmp_path / "pooler" / "pgbouncer.ini"
    configuration.write_text(configuration.read_text().replace("server_login_retry = 1", "server_login_retry = 60"))
    try:
        pooler.start()
        raised = error_of_connecting(pooler.url().replace("s3cret", "wr0ng"))
        assert (type(raised), "wrong password" in str(raised)) == (PostgresRefusesConnections, True)
        raised = error_of_connecting(pooler.url().replace(urlsplit(url).path, "/nowhere"))
        assert (type(raised), 'there is no database "nowhere"' in str(raised)) == (PostgresRefusesConnections, True)
        with Ledger(pooler.url()).connect():
            world.execute(f"ALTER ROLE \"{role}\" PASSWORD 'another'")
        world.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
        expected = "PgBouncer cannot log in at its server"
        once = pooler.url("pgbouncer=true&socket_timeout=1")  # the first client is kept waiting
        wait_until(lambda: expected in str(error_of_connecting(once)), 30, "it reports its failed login")
        assert type(error_of_connecting(once)) is PostgresUnavailable
    finally:
        pooler.stop()


@pytest.mark.parametrize(("url", "retries"), [("viewer:wr0ng@{}/viewer", 0), ("busy:s3cret@{}/viewer", 1)])
def test_a_run_tries_again_only_what_may_pass(
    server: PostgresServer, dagster: DagsterWorld, dagster_settings: Settings, url: str, retries: int
) -> None:
    """A wrong password fails the first step at once, with the remedy; a limit of connections does not."""
    settings = dagster_settings.copy_unvalidated(database_url="postgresql://" + url.format(f"{LOOPBACK}:{server.port}"))
    result = defs.resolve_job_def(flush_views.name).execute_in_process(
        instance=dagster.instance, resources={"settings": settings}, raise_on_error=False
    )
    assert not result.success
    assert bool([event for event in result.all_events if event.is_step_up_for_retry]) is bool(retries)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data.error
    assert error is not None
    assert "remedy: " in error.to_string()
    assert "s3cret" not in error.to_string()


def test_a_worker_continues_until_the_password_is_corrected(
    server: PostgresServer, tmp_path: Path, client: redis.Redis, redis_url: str
) -> None:
    """Messages would be lost without it: it keeps them, says what is wrong, and folds once PostgreSQL lets it in."""
    migrate(server.url, with_dagster=True)
    login = f"late:s3cret@{LOOPBACK}:{server.port}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE late LOGIN SUPERUSER PASSWORD 'another'")
        with WorkerProcess(tmp_path, f"postgresql://{login}/viewer", redis_url, TARGET_TABLE="Vod") as worker:
            worker.wait_until_ready()
            assert worker.has_logged("flushes_impossible")
            assert publish(client, "a", 5) == 1
            with pytest.raises(NotHealthy, match='wrong password, or there is no role "late"'):
                require_healthy_worker(Settings(), (LOOPBACK, worker.port))
            connection.execute("ALTER ROLE late PASSWORD 's3cret'")
            wait_until(lambda: client.get(PREFIX + "a") == b"5", 60, "the message is folded")
        connection.execute("DROP ROLE late")


def test_the_doctor_checks_the_login_of_dagsters_storage(server: PostgresServer, world: World, redis_url: str) -> None:
    """It has a URL of its own, which no other check of the doctor uses before Dagster runs."""
    dagsters = f"postgresql://viewer:wr0ng@{LOOPBACK}:{server.port}/viewer"
    settings = Settings(database_url=world.stores.ledger.url, dagster_database_url=dagsters, redis_url=redis_url)
    results = by_name(run_doctor_checks(settings))
    assert results["postgres"].status == "healthy"
    storage = results["dagster_storage"]
    assert storage.status == "unhealthy"
    assert "Dagster's storage: postgresql://viewer:***@" in storage.message
    assert "wrong password, or there is no role" in storage.message
    assert storage.remedy.startswith("correct user and password in the URL")
