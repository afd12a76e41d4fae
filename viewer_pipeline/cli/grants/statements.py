"""The rights of a role as text: SQL for PostgreSQL, ACL lines for Redis."""

from __future__ import annotations

from dataclasses import dataclass, replace

from viewer_pipeline.cli.grants import acl
from viewer_pipeline.cli.grants import role as role_sql
from viewer_pipeline.errors import SettingsError
from viewer_pipeline.identifiers import MAX_BYTES
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.settings import Settings
from viewer_pipeline.target.table import TargetNames

SCHEMA = "public"


@dataclass(frozen=True)
class Grants:
    """Statements for PostgreSQL, and lines for Redis."""

    role: str
    sql: list[str]
    redis: str
    redis_newer: str  # for 7.2 and newer, besides
    notes: list[str]


def grants_for(settings: Settings, role: str, target: TargetNames | None) -> Grants:
    """Return the rights that a role needs under these settings. Raises SettingsError for an unusable name."""
    if not role or "\x00" in role or len(role.encode()) > MAX_BYTES:
        raise SettingsError(f"--role={role!r}: expected a name of 1 to {MAX_BYTES} bytes")
    if any(character.isspace() for character in role):
        raise SettingsError(f"--role={role!r}: expected a name without blanks, which Redis does not take")
    notes = list(_notes(settings, target))
    own = settings.dagster_database_url is None
    if target is not None and target.table.schema is None:
        target = replace(target, table=target.table._replace(schema=_schema(settings)))
    lines = list(role_sql.sql_lines(role, database=_database(settings), target=target, dagster=own))
    return Grants(role, lines, acl.acl_line(role, settings), acl.newer_line(role), notes)


def _database(settings: Settings) -> str | None:
    if settings.database_url is None:
        return None
    parameters = PostgresUrl.of(settings.database_url).parameters
    return parameters.get("dbname") or parameters.get("user")


def _schema(settings: Settings) -> str:
    """Return the schema of a target table that is named without one: Prisma's URLs name it."""
    named = PostgresUrl.of(settings.database_url).schema if settings.database_url is not None else None
    return named or SCHEMA


def _notes(settings: Settings, target: TargetNames | None) -> list[str]:
    notes = []
    if settings.dagster_database_url is not None:
        notes.append("DAGSTER_DATABASE_URL is set: its role needs USAGE and CREATE on its schema there")
    if _database(settings) is None:
        notes.append(
            "DATABASE_URL names no database, so GRANT CONNECT is left out; everybody may, unless it was revoked"
        )
    if target is not None and target.table.schema is None:
        notes.append(
            f"the target's schema is not named and taken to be {_schema(settings)}; else --target schema.table"
        )
    return notes


def render(grants: Grants) -> str:
    """Return the comments, statements and ACL lines as one text."""
    notes = [f"-- {note}" for note in grants.notes]
    sql = [
        "-- PostgreSQL: as the owner, in the database of DATABASE_URL, after `viewer-pipeline migrate`.",
        f"-- Put a password in quotes where {role_sql.PASSWORD} stands: as it is, the statement is refused.",
        *notes,
        *grants.sql,
    ]
    redis = [
        "# Redis: at the prompt of redis-cli (a shell would take & and * for its own). Afterwards ACL SAVE or CONFIG",
        f"# REWRITE. Where {acl.PASSWORD} stands, put the output of `printf %s password | sha256sum`.",
        grants.redis,
        "# Redis 7.2 and newer, besides:",
        grants.redis_newer,
    ]
    return "\n".join([*sql, "", *redis])
