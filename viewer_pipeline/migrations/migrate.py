"""Bring the schema `viewer` up to date."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, create_engine, exc, text
from sqlalchemy.engine import make_url

from viewer_pipeline.errors import PostgresFailed, PostgresUnavailable

LOCK = 7_310_579_121  # any number that nobody else takes as an advisory lock in this database


def migrate(database_url: str, *, with_dagster: bool) -> tuple[str | None, str]:
    """Apply what is missing; return the revision before and after. Safe to run twice, and at once.

    `with_dagster` also makes the (empty) schema in which Dagster makes its own tables.
    Raises PostgresUnavailable or PostgresFailed.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    head = ScriptDirectory.from_config(config).get_current_head() or ""
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, connect_args={"connect_timeout": 10, "client_encoding": "utf8"})
    try:
        with engine.connect() as connection, connection.begin():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            for schema in ("viewer", "dagster") if with_dagster else ("viewer",):
                _make_schema(connection, schema)
            if (encoding := connection.execute(text("SHOW server_encoding")).scalar()) not in ("UTF8", b"UTF8"):
                raise PostgresFailed(f"{_where(database_url)}: encoding {encoding!r}; ids need a database in UTF8")
            context = MigrationContext.configure(connection, opts={"version_table_schema": "viewer"})
            before = context.get_current_revision()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return before, head
    except CommandError as error:
        raise PostgresFailed(f"{_where(database_url)}: schema viewer was made by a newer version: {error}") from error
    except exc.OperationalError as error:
        raise PostgresUnavailable(f"{_where(database_url)}: {_first_line(error)}") from error
    except exc.DBAPIError as error:
        raise PostgresFailed(f"{_where(database_url)}: {_first_line(error)}") from error
    finally:
        engine.dispose()


def _make_schema(connection: Connection, schema: str) -> None:
    # Asked first: IF NOT EXISTS needs the right to create schemas even where there is nothing to create.
    exists = connection.execute(text("SELECT FROM pg_namespace WHERE nspname = :schema"), {"schema": schema})
    if exists.first() is None:
        connection.execute(text(f"CREATE SCHEMA {schema}"))


def _first_line(error: exc.DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]


def _where(database_url: str) -> str:
    return make_url(database_url).render_as_string(hide_password=True)
