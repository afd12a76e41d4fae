"""Every form of a PostgreSQL URL, on a real server, everywhere that a connection is opened."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql
from sqlalchemy import text

from viewer_pipeline.cli.main import main
from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import last_flush
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.migrations.migrate import migrate, migrate_all
from viewer_pipeline.monitoring import dagster_tables
from viewer_pipeline.orchestration.dagster_instance import count_flush_runs, open_instance
from viewer_pipeline.orchestration.storage_engine import engine_of
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stores.postgres import connect_dagster_storage
from viewer_pipeline.streams import WHOLE
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.worker_process import WorkerProcess
from viewer_pipeline_tests.support.world import World

PASSWORD = "p@ss:w/rd?%41&ü="  # every character that a URL may trip over
QUOTED = quote(PASSWORD, safe="")
PRISMAS = "schema=public&sslmode=prefer&connection_limit=5&pool_timeout=10&connect_timeout=5&statement_cache_size=0"


@dataclass(frozen=True)
class Place:
    """An empty database of a server that has a socket, and its owner, whose password is PASSWORD."""

    sockets: Path
    port: int
    name: str  # of the database and of its owner
    admin_url: str

    def url(self, form: str) -> str:
        """Return a URL of one of FORMS."""
        here = {"login": f"{self.name}:{QUOTED}", "port": self.port, "db": self.name, "user": self.name}
        socket = {"path": self.sockets, "quoted": quote(str(self.sockets), safe=""), "password": QUOTED}
        return form.format(**here, **socket, host=LOOPBACK, closed=find_free_port(), prismas=PRISMAS)


FORMS = {
    "postgres": "postgres://{login}@{host}:{port}/{db}",
    "Prisma's": "postgresql://{login}@{host}:{port}/{db}?{prismas}&no_such_parameter=1",
    "parameters": "postgresql:///?host={host}&port={port}&dbname={db}&user={user}&password={password}",
    "second host": "postgresql://{login}@{host}:{closed},{host}:{port}/{db}?target_session_attrs=primary",
    "socket": "postgresql:///{db}?host={path}&port={port}&user={user}&password={password}",
    "socket as host": "postgresql://{login}@{quoted}:{port}/{db}",
    "Prisma's socket": "postgresql://{login}@localhost:{port}/{db}?host={path}/&schema=public",
    "host and socket": "postgresql://{login}@{host}:{closed},{quoted}:{port}/{db}",
}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[PostgresServer, Path]]:
    """A PostgreSQL with a socket, whose path is short enough for one."""
    home = Path(tempfile.mkdtemp(prefix="viewer-", dir="/tmp"))
    sockets = home / "sockets"
    sockets.mkdir()
    home.chmod(0o755)
    sockets.chmod(0o777)
    server = PostgresServer(home, throw_away=True, settings=[f"unix_socket_directories={sockets}"])
    try:
        server.start()
        yield server, sockets
    finally:
        server.stop()
        shutil.rmtree(home)


@pytest.fixture
def place(server: tuple[PostgresServer, Path]) -> Iterator[Place]:
    """Return an empty database."""
    name = "place_" + os.urandom(6).hex()
    postgres, sockets = server
    with psycopg.connect(postgres.url_of_database("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(PASSWORD))
        )
        connection.execute(f"CREATE DATABASE {name} OWNER {name}")
        yield Place(sockets, postgres.port, name, postgres.url_of_database(name))
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_everywhere(place: Place, form: str) -> None:
    """Migrations, the ledger, health's look at Dagster's tables, and Dagster's driver come to the same database."""
    url = place.url(FORMS[form])
    settings = Settings(database_url=url)
    assert migrate_all(settings)[0] is None
    here = "SELECT current_database(), current_user, current_setting('port')::int"
    with Ledger(url).connect() as connection:
        assert last_flush(connection, WHOLE).seq == 0
        assert connection.execute(here).fetchone() == (place.name, place.name, place.port)
    with connect_dagster_storage(settings) as connection:
        assert connection.execute(here).fetchone() == (place.name, place.name, place.port)
        assert connection.execute("SHOW search_path").fetchone() == ('"dagster"',)
    with engine_of(settings).connect() as engine_connection:
        assert tuple(engine_connection.execute(text(here)).one()) == (place.name, place.name, place.port)
        assert engine_connection.execute(text("SHOW search_path")).scalar() == '"dagster"'
    assert dagster_tables.read_dagster(settings) is None


def test_dagster_itself(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes its tables through a socket, in the schema that DAGSTER_DATABASE_URL names and `migrate` makes."""
    url = place.url(FORMS["Prisma's socket"])
    dagsters = url.replace("schema=public", "schema=Dagster's-own")
    settings = Settings(database_url=url, dagster_database_url=dagsters, viewer_home=tmp_path)
    for name, value in settings.child_process_environment().items():
        monkeypatch.setenv(name, value)
    migrate_all(settings)
    migrate_all(settings)
    with open_instance(settings) as instance:
        assert count_flush_runs(instance) == 0
    with psycopg.connect(place.admin_url) as connection:
        rows = connection.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'runs'").fetchall()
    assert rows == [("Dagster's-own",)]
    assert dagster_tables.read_dagster(settings) == dagster_tables.DagsterReading({}, None, None, [])


def test_the_host_that_takes_writes(world: World, place: Place) -> None:
    """Of several hosts a standby is skipped; here, a read-only database takes its part."""
    here = world.stores.ledger.url
    name, where = urlsplit(here).path.strip("/"), urlsplit(here).netloc.rpartition("@")[2]
    role = sql.Identifier(name)
    made = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(PASSWORD))
    with psycopg.connect(place.admin_url, autocommit=True) as connection:
        connection.execute(made)
        connection.execute(f"CREATE DATABASE {name}")
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with psycopg.connect(here, autocommit=True) as owner:
        owner.execute(made + sql.SQL(" IN ROLE {}").format(sql.Identifier(owner.info.user)))
    try:
        url = f"postgresql://{name}:{QUOTED}@{LOOPBACK}:{place.port},{where}/{name}"
        migrate(url, with_dagster=True)
        world.send_many(3)
        world.stores = Stores(world.stores.redis, Ledger(url))
        world.flush()
        with engine_of(Settings(database_url=url)).connect() as connection_of_dagster:
            assert connection_of_dagster.execute(text("SHOW default_transaction_read_only")).scalar() == "off"
    finally:
        with psycopg.connect(place.admin_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name}")
            connection.execute(sql.SQL("DROP ROLE {}").format(role))
        with psycopg.connect(here, autocommit=True) as owner:
            owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
    world.stores = Stores(world.stores.redis, Ledger(here))
    world.assert_all_persisted()


@pytest.mark.parametrize("schema", ["public", "Streamix", "my-app", "my app", 'a"b', "a\\b", "größe", "a,b", "select"])
def test_any_schema(database_url: str, schema: str) -> None:
    """Tables in it are found by their bare name."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        connection.execute(sql.SQL("CREATE TABLE {} AS SELECT 7 AS n").format(sql.Identifier(schema, "Vod")))
    with Ledger(f"{database_url}?schema={quote(schema)}&options=-csearch_path%3Dother").connect() as connection:
        assert connection.execute('SELECT n FROM "Vod"').fetchone() == (7,)


def test_time_outs_and_names(database_url: str) -> None:
    """Ours, unless the URL says otherwise."""
    names = ("statement_timeout", "lock_timeout", "application_name")
    query = f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}"
    theirs = f"{database_url}?socket_timeout=7&application_name=web&options=-c%20lock_timeout%3D1s"
    for url, expected in ((database_url, ("1min", "20s", "viewer-pipeline")), (theirs, ("7s", "1s", "web"))):
        with Ledger(url).connect() as connection:
            assert connection.execute(query).fetchone() == expected


def test_socket_timeout(database_url: str) -> None:
    """A slow server reports a timeout; the client times out on a silent one."""
    slow = Ledger(f"{database_url}?socket_timeout=4")  # a second between the two time-outs
    with pytest.raises(PostgresUnavailable, match="statement timeout"), slow.connect() as connection:
        connection.execute("SELECT pg_sleep(30)")
    with Proxy.of(database_url, 5432) as proxy:
        silent = Ledger(f"{proxy.url(database_url)}?socket_timeout=1")
        proxy.fall_silent_at(b"SELECT 7", deliver=False)
        with pytest.raises(PostgresUnavailable, match=r"no answer within 1\.25 s"), silent.connect() as connection:
            connection.execute("SELECT 7")


DROPPED = "database_url_parameters_dropped"


def test_one_warning_of_a_worker(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """At its start, and not with every connection."""
    url = f"{database_url}?schema=public&foo=Geheim&bar=1"
    with WorkerProcess(tmp_path, url, redis_url, PUBSUB_CHANEL="Geheim") as worker:
        worker.wait_until_ready()
        assert worker.stop() == 0
        dropped = [line for line in worker.events() if line["event"] == DROPPED]
        assert [(line["level"], line["DATABASE_URL"]) for line in dropped] == [("warning", "foo, bar")]
        unknown = [line for line in worker.events() if line["event"] == "unknown_setting"]
        assert [(line["variable"], line["probably_meant"]) for line in unknown] == [("PUBSUB_CHANEL", "PUBSUB_CHANNEL")]
        assert "Geheim" not in worker.log.read_text()


def test_one_warning_of_a_command(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the start of a command; without the value."""
    monkeypatch.setenv("DATABASE_URL", f"{database_url}?schema=public&foo=Geheim&bar=1")
    with caplog.at_level(logging.WARNING):
        result = CliRunner().invoke(main, ["migrate"])
    assert result.exit_code == 0, result.output
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("viewer_pipeline")]
    assert warnings == [f'{DROPPED} DATABASE_URL="foo, bar"']
