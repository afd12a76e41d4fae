"""Dagster's storage in PostgreSQL, over connections that are kept (docs/adr/0017-storage-with-kept-connections.md).

The tables and statements are those of dagster-postgres, but for one. That opens a connection for every query outside
the webserver, 190 for a run. It also needs a variable with a URL for SQLAlchemy, where `dagster.yaml` needs none for
this class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import click
from dagster._config.config_schema import UserConfigSchema
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from dagster_postgres.utils import create_pg_connection
from sqlalchemy import Engine, inspect, text

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.orchestration.storage_engine import (
    DIALECT,
    engine_of,
    is_known_table,
    is_schema_complete,
)
from viewer_pipeline.settings_of_running_up import load_settings_and_find_servers

TABLES = {
    name: table.columns.keys()
    for metadata in (RunStorageSqlMetadata, SqlEventLogStorageMetadata, ScheduleStorageSqlMetadata)
    for name, table in metadata.tables.items()
}
LOCK = 7_310_579_122  # the number after that of our own migrations


class StorageUnusable(SettingsError, click.ClickException):  # Dagster's commands print it without a traceback
    """Dagster has no storage"""


class _PartOfPooledStorage(ABC):
    """A part of dagster-postgres's storage with an engine that is given, in place of one that it creates itself."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(DIALECT, should_autocreate_tables=False)  # type: ignore[call-arg] # of dagster-postgres
        self._engine = engine
        self._built = set[str]()  # migrations of data that are done

    @abstractmethod
    def create_tables(self) -> None:
        """Create the tables as dagster-postgres does, with all its migrations of data marked as done."""

    def has_built_index(self, migration_name: str) -> bool:
        """Whether a migration of data is done. Asked until it is: Dagster asks before many queries."""
        if migration_name not in self._built and super().has_built_index(migration_name):  # type: ignore[misc] # likewise
            self._built.add(migration_name)
        return migration_name in self._built

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        """Change nothing: the engine keeps connections in every process, and has time-outs of ours."""
        del statement_timeout, pool_recycle, max_overflow


class PooledRunStorage(_PartOfPooledStorage, PostgresRunStorage):
    """Runs, backfills, heartbeats of daemons."""

    def create_tables(self) -> None:
        """Create the tables."""
        self._init_db()
        self.migrate()
        self.optimize()


class PooledEventLogStorage(_PartOfPooledStorage, PostgresEventLogStorage):
    """Events, assets, results of checks."""

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event, without the NOTIFY of dagster-postgres: a transaction for old versions, which listened."""
        SqlEventLogStorage.store_event(self, event)

    def has_table(self, table_name: str) -> bool:
        """Whether there is this table: a query only where the schema is not complete."""
        return is_known_table(table_name) or super().has_table(table_name)

    def create_tables(self) -> None:
        """Create the tables."""
        self._init_db()
        self.reindex_events()
        self.reindex_assets()


class PooledScheduleStorage(_PartOfPooledStorage, PostgresScheduleStorage):
    """Sensors, schedules and their ticks."""

    def create_tables(self) -> None:
        """Create the tables."""
        self._init_db()


class PooledPostgresStorage(DagsterPostgresStorage):
    """The storage of dagster-postgres in the database that our settings name. Its parts share one engine.

    Creates Dagster's tables if they are missing.
    """

    def __init__(self, engine: Engine, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(DIALECT, should_autocreate_tables=False, inst_data=inst_data)
        self._run_storage = runs = PooledRunStorage(engine)
        self._event_log_storage = events = PooledEventLogStorage(engine)
        self._schedule_storage = schedules = PooledScheduleStorage(engine)
        parts: dict[str, _PartOfPooledStorage] = {"runs": runs, "event_logs": events, "jobs": schedules}
        with create_pg_connection(engine) as connection:
            if not is_schema_complete(connection, TABLES):
                _create_missing_tables(engine, parts)
                is_schema_complete(connection, TABLES)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return no fields: everything is in our settings."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:  # noqa: ARG003 - it is empty
        """Open the storage that DAGSTER_DATABASE_URL or DATABASE_URL names, or that of a running `up`.

        Raises StorageUnusable if none does.
        """
        try:
            return cls(engine_of(load_settings_and_find_servers()), inst_data)
        except SettingsError as error:
            raise StorageUnusable(str(error)) from error


def _create_missing_tables(engine: Engine, parts: Mapping[str, _PartOfPooledStorage]) -> None:
    """Create the tables of each part whose main table is missing. Several processes do this one after the other."""
    with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        for table in parts.keys() - set(inspect(connection).get_table_names()):
            parts[table].create_tables()
