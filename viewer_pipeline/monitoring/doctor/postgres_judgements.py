"""What is to be thought of a PostgreSQL. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from viewer_pipeline.monitoring.doctor.finding import Finding
from viewer_pipeline.monitoring.doctor.postgres_reading import PostgresReading
from viewer_pipeline.monitoring.rules import REVISION

OLDEST = 14  # major version
SLOW_MS = 20.0
LOSES = {"off": "problem", "local": "note"}


def judge_postgres(reading: PostgresReading) -> Iterator[Finding]:
    """Judge everything but the clock."""
    yield Finding("postgres", "ok", f"answers, as role {reading.role}")
    yield _version(reading)
    yield _latency(reading)
    yield _encoding(reading)
    yield _writes(reading)
    yield _durability(reading)
    yield _schema(reading)
    if reading.schema:
        yield _privileges(reading)


def _version(reading: PostgresReading) -> Finding:
    major = reading.version_number // 10_000
    if major < OLDEST:
        do = f"upgrade to {OLDEST} or newer"
        return Finding("postgres_version", "problem", f"version {reading.version}, older than {OLDEST}", do)
    return Finding("postgres_version", "ok", f"version {reading.version}")


def _latency(reading: PostgresReading) -> Finding:
    figures = {"latency_ms": reading.latency_ms}
    what = f"SELECT 1 takes {reading.latency_ms} ms"
    if reading.latency_ms > SLOW_MS:
        do = "run worker and Dagster near the database, or set FLUSH_MAX_COUNTERS lower if people edit the same rows"
        return Finding("postgres_latency", "warning", what, do, figures)
    return Finding("postgres_latency", "ok", what, figures=figures)


def _encoding(reading: PostgresReading) -> Finding:
    if reading.encoding != "UTF8":
        do = "make a database with ENCODING 'UTF8' and move there"
        return Finding("postgres_encoding", "problem", f"the database is encoded in {reading.encoding}", do)
    return Finding("postgres_encoding", "ok", "the database is encoded in UTF8")


def _writes(reading: PostgresReading) -> Finding:
    if reading.standby:
        return Finding("postgres_writes", "problem", "it is in recovery: a standby", "name the primary in DATABASE_URL")
    if reading.read_only:
        do = "ALTER ROLE or ALTER DATABASE … SET default_transaction_read_only = off"
        return Finding("postgres_writes", "problem", "transactions are read-only", do)
    return Finding("postgres_writes", "ok", "it is a primary and takes writes")


def _durability(reading: PostgresReading) -> Finding:
    name = "postgres_durability"
    if not reading.fsync:
        return Finding(name, "problem", "fsync is off: a crash may destroy the database", "set fsync = on")
    if reading.synchronous_commit == "off":
        what = "synchronous_commit is off: a crash loses the commits of the last moment"
        return Finding(name, "problem", what, f"ALTER ROLE {reading.role} SET synchronous_commit = on")
    if not reading.full_page_writes:
        do = "set full_page_writes = on, unless your file system never tears a page"
        return Finding(name, "warning", "full_page_writes is off: a crash may tear pages", do)
    if reading.synchronous_commit == "local":
        what = "synchronous_commit is local: a failover to a standby may lose commits"
        return Finding(name, "note", what, "set it to on where you fail over to synchronous standbys")
    return Finding(name, "ok", f"fsync is on, synchronous_commit is {reading.synchronous_commit}")


def _schema(reading: PostgresReading) -> Finding:
    do = "run `viewer-pipeline migrate`"
    if not reading.schema:
        return Finding("postgres_schema", "problem", "the schema `viewer` is missing", do)
    if reading.revision == REVISION:
        return Finding("postgres_schema", "ok", f"the schema `viewer` is at revision {REVISION}, as it should be")
    if reading.revision > REVISION:
        what = f"the schema `viewer` is at revision {reading.revision}, newer than this program's {REVISION}"
        return Finding("postgres_schema", "warning", what, "upgrade Viewer Pipeline on this machine")
    if reading.lacking and not reading.revision:
        what = "the revision of the schema `viewer` cannot be read"
        return Finding("postgres_schema", "problem", what, "give this role what `viewer-pipeline grants` prints")
    at = f"at revision {reading.revision}" if reading.revision else "without a revision"
    return Finding("postgres_schema", "problem", f"the schema `viewer` is {at}, {REVISION} is needed", do)


def _privileges(reading: PostgresReading) -> Finding:
    if not reading.lacking:
        return Finding("postgres_privileges", "ok", f"role {reading.role} may do what a flush does")
    what = f"role {reading.role} lacks {', '.join(reading.lacking)}"
    return Finding("postgres_privileges", "problem", what, "run what `viewer-pipeline grants` prints, as the owner")
