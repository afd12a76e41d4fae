"""Bring the schema `viewer` up to date."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, NullPool, create_engine, exc, text
from sqlalchemy.schema import CreateSchema

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import PostgresDeniesRight, PostgresFailed
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.redaction import redact_url
from viewer_pipeline.settings import DAGSTER_SCHEMA, Settings
from viewer_pipeline.sql_identifiers import quoted
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.stores.postgres import LONG_SECONDS, open_connection
from viewer_pipeline.stores.postgres_errors import to_our_error

SQL = named_queries(__name__)
LOCK = 7_310_579_121  # any number that nobody else takes as an advisory lock in this database


def migrate_all(settings: Settings) -> tuple[str | None, str]:
    """Migrate what these settings name, and make the schema that DAGSTER_DATABASE_URL may name; as `migrate` does."""
    dagsters = settings.dagster_database_url
    if dagsters is not None and (schema := PostgresUrl.of(dagsters).schema) is not None:
        with _locked_transaction(dagsters) as connection:
            _make_schema(connection, schema)
    return migrate(settings.require_database_url(), with_dagster=dagsters is None)


def migrate(database_url: str, *, with_dagster: bool) -> tuple[str | None, str]:
    """Apply what is missing; return the revision before and after. Safe to run twice, and at once.

    `with_dagster` also makes the (empty) schema in which Dagster makes its own tables.
    Raises PostgresUnavailable, PostgresRefusesWrites, PostgresRefusesConnections, PostgresDeniesRight or another
    PostgresFailed.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    head = ScriptDirectory.from_config(config).get_current_head() or ""
    with _locked_transaction(database_url) as connection:
        for schema in ("viewer", DAGSTER_SCHEMA) if with_dagster else ("viewer",):
            _make_schema(connection, schema)
        if (encoding := connection.execute(text("SHOW server_encoding")).scalar()) not in ("UTF8", b"UTF8"):
            raise PostgresFailed(f"{redact_url(database_url)}: encoding {encoding!r}; ids need a database in UTF8")
        context = MigrationContext.configure(connection, opts={"version_table_schema": "viewer"})
        if (before := context.get_current_revision()) != head:
            _require_ownership(connection, redact_url(database_url))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before, head


def current_revision(database_url: str) -> str | None:
    """Return the revision of the schema; None where there is none. Raises PostgresUnavailable or PostgresFailed."""
    with _locked_transaction(database_url) as connection:
        return MigrationContext.configure(connection, opts={"version_table_schema": "viewer"}).get_current_revision()


@contextmanager
def _locked_transaction(database_url: str) -> Iterator[Connection]:
    """Open one transaction, which no other migration runs beside; errors come out as ours.

    SQLAlchemy's own URLs know neither several hosts nor all sockets: it gets its connection from us.
    """
    engine = create_engine("postgresql+psycopg://", creator=lambda: _open(database_url), poolclass=NullPool)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            yield connection
    except CommandError as error:
        raise PostgresFailed(
            f"{redact_url(database_url)}: schema viewer was made by a newer version: {error}"
        ) from error
    except exc.DBAPIError as error:
        raise to_our_error(error, database_url) from error


def _require_ownership(connection: Connection, where: str) -> None:
    """Raise PostgresDeniesRight if this role may not change what is there; without a table, it may only lack CREATE."""
    role, may_create, table, owner = connection.execute(text(SQL["missing_ownership"])).one()
    if table is not None:
        sentence = f"role {quoted(role)} does not own the tables of schema viewer; {table} belongs to {quoted(owner)}"
        raise PostgresDeniesRight(f"{where}: {sentence}", f"run `{command_to_type('migrate')}` as role {quoted(owner)}")
    if not may_create:
        sentence = f"role {quoted(role)} may not create tables in schema viewer"
        raise PostgresDeniesRight(f"{where}: {sentence}", f"GRANT USAGE, CREATE ON SCHEMA viewer TO {quoted(role)}")


def _open(database_url: str) -> psycopg.Connection:
    connection = open_connection(PostgresUrl.of(database_url), LONG_SECONDS)
    connection.autocommit = False  # SQLAlchemy ends the transactions
    return connection


def _make_schema(connection: Connection, schema: str) -> None:
    # Asked first: IF NOT EXISTS needs the right to create schemas even where there is nothing to create.
    exists = connection.execute(text("SELECT FROM pg_namespace WHERE nspname = :schema"), {"schema": schema})
    if exists.first() is None:
        connection.execute(CreateSchema(schema))
