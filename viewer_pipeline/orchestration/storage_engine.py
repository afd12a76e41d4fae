"""The SQLAlchemy engine of Dagster's storage: one for a process, with connections that are kept, checked and ours.

Its connections are opened like all others of this program: with our session settings, with finite waits, through
poolers as well, and by psycopg 3.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.dialects.postgresql.base import PGInspector
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool

from viewer_pipeline.logs import event as log_line
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.kept_connections import is_closed_by_server
from viewer_pipeline.stores.postgres import open_connection

log = logging.getLogger("dagster.viewer_pipeline")  # Dagster's commands print the lines of `dagster`

DIALECT = "postgresql+psycopg://"  # without a place: connections come from `open_connection`
RECYCLE_SECONDS = 600  # what PostgreSQL caches in a session is freed with it

_engines = dict[tuple[str | None, str | None], Engine]()


def engine_of(settings: Settings) -> Engine:
    """Return the engine of the storage that the URLs name, the same for every instance that this process opens.

    A process has one storage: the engine of another is disposed. Raises SettingsError if no URL is set.
    """
    key = (settings.dagster_database_url, settings.database_url)
    if (engine := _engines.get(key)) is None:
        dispose_engines()
        engine = _engines[key] = _create_engine(settings)
    return engine


def dispose_engines() -> None:
    """Close all idle connections. The next storage gets an engine of its own."""
    while _engines:
        _engines.popitem()[1].dispose()


def close_idle_connections() -> None:
    """Close all idle connections; the engines stay."""
    for engine in _engines.values():
        engine.dispose()


_known_columns = dict[str, list[ReflectedColumn]]()  # by table: of a storage that has all of them
_known_tables = list[str]()


class SchemaInspector(PGInspector):
    """Asks the server until it has all tables and columns that the installed Dagster knows: they stay.

    Dagster asks before many queries. Forks of this process know what it knows.
    """

    def get_table_names(self, schema: str | None = None, **options: Any) -> list[str]:
        """Return the names of all tables of the storage's schema."""
        return _known_tables or super().get_table_names(schema, **options)

    def get_columns(self, table_name: str, schema: str | None = None, **options: Any) -> list[ReflectedColumn]:
        """Return the columns of a table."""
        return _known_columns.get(table_name) or super().get_columns(table_name, schema, **options)


def is_schema_complete(connection: Connection, tables: Mapping[str, Collection[str]]) -> bool:
    """Whether the storage has these tables, with these columns. Asks the server until it has."""
    if not _known_columns:
        inspector = inspect(connection)
        columns = {
            table: of_table for (_, table), of_table in inspector.get_multi_columns(filter_names=list(tables)).items()
        }
        if all(set(names) <= {column["name"] for column in columns.get(table, ())} for table, names in tables.items()):
            _known_tables.extend(inspector.get_table_names())
            _known_columns.update(columns)
    return bool(_known_columns)


def is_known_table(name: str) -> bool:
    """Whether the storage is known to have this table."""
    return name in _known_columns


def _create_engine(settings: Settings) -> Engine:
    """Create an engine that keeps one connection, and opens more as long as threads need them: nobody waits."""
    url = settings.dagster_storage_url()
    log.info(log_line("dagster_storage_opened", place=url.place, schema=url.schema or ""))
    engine = create_engine(
        DIALECT,
        creator=lambda: open_connection(url),
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=-1,
        pool_recycle=RECYCLE_SECONDS,
    )
    _known_tables.clear()  # of the storage before
    _known_columns.clear()
    engine.dialect.inspector = SchemaInspector  # type: ignore[attr-defined] # an attribute of PostgreSQL's dialect
    event.listen(engine, "checkout", _replace_if_closed)
    return engine


def _replace_if_closed(connection: psycopg.Connection, _record: Any, _proxy: Any) -> None:
    """Have an idle connection replaced that the server has closed."""
    if connection.closed or is_closed_by_server(connection):
        raise DisconnectionError


def _leave_connections_to_parent() -> None:
    """Open connections of its own in a forked process; those of the parent are neither used nor closed."""
    for engine in _engines.values():
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_leave_connections_to_parent)
