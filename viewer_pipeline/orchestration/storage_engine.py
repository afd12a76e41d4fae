"""The SQLAlchemy engine of Dagster's storage: one for a process, with connections that are kept, checked and ours.

Its connections are opened like all others of this program: with our session settings, with finite waits, through
poolers as well, and by psycopg 3.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.dialects.postgresql.base import PGInspector
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool

from viewer_pipeline.logs import event as log_line
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.kept_connections import is_closed_by_server
from viewer_pipeline.stores.postgres import open_connection

log = logging.getLogger("dagster.viewer_pipeline")  # Dagster's commands print the lines of `dagster`

DIALECT = "postgresql+psycopg://"  # without a place: connections come from `open_connection`
SCHEMA_SECONDS = 60
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


class _SchemaCache:
    """Which tables and columns the storage of this process has, for SCHEMA_SECONDS."""

    def __init__(self) -> None:
        self._known = dict[Any, Any]()
        self._since = 0.0  # monotonic

    def current(self) -> dict[Any, Any]:
        """Return what is known, by question; nothing if it is old."""
        now = time.monotonic()
        if now - self._since > SCHEMA_SECONDS:
            self._known.clear()
            self._since = now
        return self._known


_schema_cache = _SchemaCache()


class CachingInspector(PGInspector):
    """Asks the server once a minute: Dagster asks before many queries. `clear_cache` has the next question asked."""

    @property
    def info_cache(self) -> dict[Any, Any]:
        """What is known, which SQLAlchemy reads and fills."""
        return _schema_cache.current()

    @info_cache.setter
    def info_cache(self, _none: dict[Any, Any]) -> None:
        """Keep what is known, where SQLAlchemy begins with nothing for each connection."""


def _create_engine(settings: Settings) -> Engine:
    """Create an engine that keeps one connection, and opens more as long as threads need them: nobody waits."""
    url = settings.dagster_storage_url()
    log.info(log_line("storage of Dagster", place=url.place, schema=url.schema or ""))
    engine = create_engine(
        DIALECT,
        creator=lambda: open_connection(url),
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=-1,
        pool_recycle=RECYCLE_SECONDS,
    )
    _schema_cache.current().clear()  # of the storage before
    engine.dialect.inspector = CachingInspector  # type: ignore[attr-defined] # an attribute of PostgreSQL's dialect
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
