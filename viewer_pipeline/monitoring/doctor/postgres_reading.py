"""What PostgreSQL says of itself and of the role that asks. Writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import psycopg

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.stores.privileges import TABLES

ROUND_TRIPS = 7

ABOUT = """
    SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
        current_setting('server_encoding'), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
        current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on',
        current_setting('synchronous_commit'), current_user
"""
SCHEMA = "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = 'viewer'"
REVISION = "SELECT version_num FROM viewer.alembic_version"
LACKING = """
    SELECT needed.name, needed.privilege
    FROM unnest(%(tables)s::text[], %(privileges)s::text[]) AS needed (name, privilege)
    JOIN pg_class AS c ON c.relname = needed.name AND c.relnamespace = 'viewer'::regnamespace
    WHERE NOT has_table_privilege(c.oid, needed.privilege)
    ORDER BY 1, 2
"""
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


@dataclass(frozen=True)
class PostgresReading:
    """All of it, at one moment."""

    version_number: int  # 180001
    version: str
    encoding: str
    standby: bool
    read_only: bool
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    role: str
    schema: bool  # whether there is a schema `viewer`
    revision: str  # of it; empty where it is missing or cannot be read
    lacking: tuple[str, ...]  # rights, as GRANT takes them
    latency_ms: float
    clock_ahead: float  # seconds before this machine's


def read_postgres(ledger: Ledger) -> PostgresReading:
    """Ask. Raises PostgresUnavailable, PostgresFailed."""
    with ledger.connect(any_server=True) as connection:
        about = _row(connection, ABOUT)
        trips = [_timed(lambda: _row(connection, "SELECT 1"))[1] for _ in range(ROUND_TRIPS)]
        asked = time.time()
        now = _row(connection, NOW)[0]
        ahead = now - (asked + time.time()) / 2
        may_use = connection.execute(SCHEMA).fetchone()
        lacking = _lacking(connection) if may_use else ()
        if may_use == (False,):
            lacking = ("USAGE ON SCHEMA viewer", *lacking)
        revision = "" if may_use != (True,) or "SELECT ON viewer.alembic_version" in lacking else _revision(connection)
    latency = round(median(trips) * 1000, 2)
    found = (*about, bool(may_use), revision, lacking, latency, round(ahead, 3))
    return PostgresReading(*found)


def _lacking(connection: psycopg.Connection) -> tuple[str, ...]:
    pairs = [(table, privilege) for table, privileges in TABLES.items() for privilege in privileges]
    parameters = {"tables": [table for table, _ in pairs], "privileges": [privilege for _, privilege in pairs]}
    return tuple(f"{privilege} ON viewer.{table}" for table, privilege in connection.execute(LACKING, parameters))


def _revision(connection: psycopg.Connection) -> str:
    try:
        found = connection.execute(REVISION).fetchone()
    except psycopg.errors.UndefinedTable:
        return ""
    return str(found[0]) if found else ""


def _row(connection: psycopg.Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None, "a SELECT without FROM returns one row"
    return row


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return call(), time.perf_counter() - started
