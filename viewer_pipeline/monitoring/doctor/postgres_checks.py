"""Slow checks of PostgreSQL: version, latency, encoding, durability, privileges."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median

import psycopg

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import NotReplicated, PostgresRefusesWrites, SettingsError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.standby_wait import StandbyWait
from viewer_pipeline.settings import Settings
from viewer_pipeline.sql_identifiers import quoted
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.postgres import connect_dagster_storage
from viewer_pipeline.stores.table_privileges_and_redis_commands import TABLE_PRIVILEGES
from viewer_pipeline.text_formatting import pluralize

SQL = named_queries(__name__)

ROUND_TRIPS = 7
OLDEST = 14  # major version
SLOW_MS = 20.0
MAX_GRANTS = 5  # in a remedy
SEE_FAILOVER = f"see `{command_to_type('docs postgresql-failover')}`"


@dataclass(frozen=True)
class PostgresReading:
    """The state of a server, read at one moment."""

    missing_rights: tuple[str, ...]  # as GRANT takes them
    latency_ms: float
    version_number: int  # 180001
    version: str
    encoding: str
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    synchronous_standby_names: str
    standbys: int  # that are connected
    role: str
    standby_wait: StandbyWait = StandbyWait()  # noqa: RUF009 - frozen
    wait_error: str = ""  # why POSTGRES_WAIT_STANDBYS cannot be honoured


def check_postgres_server(ledger: Ledger) -> list[CheckResult]:
    """Read the server and evaluate it. Raises PostgresUnavailable, PostgresFailed."""
    with ledger.connect(any_server=True) as connection:
        server = fetch_one(connection, SQL["server_settings"])
        round_trips = []
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            fetch_one(connection, "SELECT 1")
            round_trips.append(time.perf_counter() - started)
        missing, wait_error = _missing_rights(connection), ""
        try:
            ledger.require_standbys(connection)
        except (SettingsError, NotReplicated, PostgresRefusesWrites) as error:
            wait_error = str(error)
    reading = PostgresReading(missing, round(median(round_trips) * 1000, 2), *server)
    return evaluate_server(replace(reading, standby_wait=ledger.standby_wait, wait_error=wait_error))


def _missing_rights(connection: psycopg.Connection) -> tuple[str, ...]:
    may_use = connection.execute(SQL["may_use_schema"]).fetchone()
    if may_use is None:  # there is no schema yet, and `migrate` creates it
        database, may_create = fetch_one(connection, SQL["may_create_schema"])
        return () if may_create else (f"CREATE ON DATABASE {quoted(database)}",)
    pairs = [(table, privilege) for table, privileges in TABLE_PRIVILEGES.items() for privilege in privileges]
    parameters = {"tables": [table for table, _ in pairs], "privileges": [privilege for _, privilege in pairs]}
    rows = connection.execute(SQL["missing_privileges"], parameters)
    missing = tuple(f"{privilege} ON viewer.{table}" for table, privilege in rows)
    return missing if may_use[0] else ("USAGE ON SCHEMA viewer", *missing)


def check_dagster_storage(settings: Settings) -> list[CheckResult]:
    """Log in to the storage of Dagster. Raises PostgresUnavailable, PostgresFailed."""
    with connect_dagster_storage(settings):
        return [CheckResult("dagster_storage", "healthy", "the login works")]


def evaluate_server(reading: PostgresReading) -> list[CheckResult]:
    """Evaluate everything. Pure."""
    return [
        _evaluate_version(reading),
        _evaluate_latency(reading),
        _evaluate_encoding(reading),
        _evaluate_durability(reading),
        _evaluate_privileges(reading),
    ]


def _evaluate_version(reading: PostgresReading) -> CheckResult:
    name, message = "postgres_version", f"version {reading.version}"
    if reading.version_number // 10_000 < OLDEST:
        return CheckResult(name, "unhealthy", f"{message}, older than {OLDEST}", remedy=f"upgrade to {OLDEST} or newer")
    return CheckResult(name, "healthy", message)


def _evaluate_latency(reading: PostgresReading) -> CheckResult:
    name, message = "postgres_latency", f"SELECT 1 takes {reading.latency_ms} ms"
    details = {"latency_ms": reading.latency_ms}
    if reading.latency_ms > SLOW_MS:
        remedy = "run worker and Dagster near the database; lower FLUSH_MAX_COUNTERS if people edit the same rows"
        return CheckResult(name, "degraded", message, details, remedy)
    return CheckResult(name, "healthy", message, details)


def _evaluate_encoding(reading: PostgresReading) -> CheckResult:
    name, message = "postgres_encoding", f"the database is encoded in {reading.encoding}"
    if reading.encoding != "UTF8":
        return CheckResult(name, "unhealthy", message, remedy="create a database with ENCODING 'UTF8' and move there")
    return CheckResult(name, "healthy", message)


def _evaluate_durability(reading: PostgresReading) -> CheckResult:
    name, commit = "postgres_durability", reading.synchronous_commit
    details = {
        "fsync": reading.fsync,
        "full_page_writes": reading.full_page_writes,
        "synchronous_commit": commit,
        "synchronous_standby_names": reading.synchronous_standby_names,
        "standbys": reading.standbys,
        "can_wait": not reading.wait_error,
    }
    if reading.wait_error:
        return CheckResult(
            name, "unhealthy", reading.wait_error, details, f"{SEE_FAILOVER}; until then no flush succeeds"
        )
    if not reading.fsync:
        message = "fsync is off: a crash may destroy the database"
        return CheckResult(name, "unhealthy", message, details, "set fsync = on")
    if not reading.full_page_writes:
        remedy = "set full_page_writes = on, unless your file system never tears a page"
        return CheckResult(name, "degraded", "full_page_writes is off: a crash may tear pages", details, remedy)
    wait = reading.standby_wait
    if wait.required:
        message = f"fsync is on, and {pluralize(reading.standbys, 'standby')} can confirm flushes"
        return CheckResult(name, "healthy", f"{message} ({wait.setting})", details)
    if commit == "local":
        message = "synchronous_commit is local: a failover to a standby may lose commits"
        return CheckResult(name, "degraded", message, details, "set it to on if you fail over to synchronous standbys")
    return CheckResult(name, "healthy", f"fsync is on, synchronous_commit is {commit}", details)


def _evaluate_privileges(reading: PostgresReading) -> CheckResult:
    name, missing = "postgres_privileges", reading.missing_rights
    if missing:
        message = f"role {reading.role} has no {', '.join(missing)}"
        grants = "; ".join(f"GRANT {right} TO {quoted(reading.role)}" for right in missing[:MAX_GRANTS])
        rest = "" if len(missing) <= MAX_GRANTS else ", and so on"
        remedy = f"as the owner: {grants}{rest}; `{command_to_type('grants')}` prints all that is needed"
        return CheckResult(name, "unhealthy", message, remedy=remedy)
    return CheckResult(name, "healthy", f"role {reading.role} may do what a flush does")
