"""Dagster's own connections to its storage, which need PostgreSQL itself and not a pooler."""

from __future__ import annotations

import psycopg

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.settings import DAGSTER_SCHEMA, Settings
from viewer_pipeline.sql_identifiers import quoted
from viewer_pipeline.stores.postgres import ARGUMENTS


def require_dagster_storage(settings: Settings) -> None:
    """Raise SettingsError if a pooler refuses or ignores the startup parameter `options`, which Dagster needs.

    If PostgreSQL is unreachable now, Dagster reports it.
    """
    url = settings.dagster_storage_url()
    arguments = {**url.arguments(ARGUMENTS), "options": url.startup_options}
    try:
        with psycopg.connect(**arguments) as connection:
            search_path = connection.execute("SHOW search_path").fetchone()
    except psycopg.Error as error:
        if "options" in str(error):  # of the pooler, which has no SQLSTATE of its own for it
            raise _pooler_error(settings, "refuses") from error
        return
    if url.schema is not None and search_path != (quoted(url.schema),):
        raise _pooler_error(settings, "ignores")


def _pooler_error(settings: Settings, verb: str) -> SettingsError:
    name = "DATABASE_URL" if settings.dagster_database_url is None else "DAGSTER_DATABASE_URL"
    return SettingsError(
        f"{name} leads through a pooler that {verb} the startup parameter `options`, in which Dagster sets its schema:"
        " set DAGSTER_DATABASE_URL to PostgreSQL's own address (what Prisma calls directUrl), such as"
        f" postgresql://user:password@host:5432/database?schema={DAGSTER_SCHEMA}"
    )
