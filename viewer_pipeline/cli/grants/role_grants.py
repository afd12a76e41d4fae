"""The rights of a role as text: SQL for PostgreSQL, ACL lines for Redis. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from viewer_pipeline.cli.grants import acl
from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.redis_url import is_cluster_url
from viewer_pipeline.settings import Settings
from viewer_pipeline.sql_identifiers import TableName, quoted
from viewer_pipeline.stores.table_privileges_and_redis_commands import TABLE_PRIVILEGES
from viewer_pipeline.target.table import TargetNames

SCHEMA = "public"
PASSWORD = "<PASSWORD>"  # noqa: S105 - invalid SQL: the statement fails until a password is put there


@dataclass(frozen=True)
class Grants:
    """Statements for PostgreSQL, and lines for Redis."""

    role: str
    sql: list[str]
    redis: str
    notes: list[str]
    cluster: bool  # whether Redis is in cluster mode: each of its nodes needs the lines


def build_grants(settings: Settings, role: str, target: TargetNames | None) -> Grants:
    """Return the rights that a role needs under these settings."""
    sql = list(_sql_lines(settings, role, target))
    cluster = is_cluster_url(settings.redis_url or "")
    return Grants(role, sql, acl.acl_line(role, settings), _notes(settings, target), cluster)


def _sql_lines(settings: Settings, role: str, target: TargetNames | None) -> Iterator[str]:
    """Yield statements. The role may read, insert into and delete from the ledger, but not update its rows."""
    name, database = quoted(role), _database_name(settings)
    yield f"CREATE ROLE {name} LOGIN PASSWORD {PASSWORD};"
    if database is not None:
        yield f"GRANT CONNECT ON DATABASE {quoted(database)} TO {name};"
    yield f"GRANT USAGE ON SCHEMA viewer TO {name};"
    for table, privileges in TABLE_PRIVILEGES.items():
        yield f"GRANT {', '.join(privileges)} ON viewer.{table} TO {name};"
    yield f"GRANT EXECUTE ON FUNCTION viewer.timeline(), viewer.counts_views(text) TO {name};"
    if settings.postgres_wait_standbys:
        yield f"GRANT pg_read_all_stats TO {name};"
    if settings.dagster_database_url is None:  # to create its tables, and for those of another role
        yield f"GRANT USAGE, CREATE ON SCHEMA dagster TO {name};"
        yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dagster TO {name};"
        yield f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA dagster TO {name};"
    if target is not None:  # two columns, of which a flush writes one
        schema = target.table.schema or _target_schema(settings)
        ids, counts = quoted(target.id_column), quoted(target.count_column)
        yield f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {name};"
        yield f"GRANT SELECT ({ids}, {counts}), UPDATE ({counts}) ON {TableName(schema, target.table.table)} TO {name};"


def _database_name(settings: Settings) -> str | None:
    if settings.database_url is None:
        return None
    parameters = PostgresUrl.of(settings.database_url).parameters
    return parameters.get("dbname") or parameters.get("user")


def _target_schema(settings: Settings) -> str:
    """Return the schema of a target table that is named without one: Prisma's URLs name it."""
    named = PostgresUrl.of(settings.database_url).schema if settings.database_url is not None else None
    return named or SCHEMA


def _notes(settings: Settings, target: TargetNames | None) -> list[str]:
    notes = []
    if settings.dagster_database_url is not None:
        notes.append("DAGSTER_DATABASE_URL is set: its role needs USAGE and CREATE on its schema there")
    if _database_name(settings) is None:
        obstacle = "is not set" if settings.database_url is None else "names no database"
        notes.append(f"DATABASE_URL {obstacle}, so GRANT CONNECT is left out")
    if settings.postgres_wait_standbys:
        notes.append(
            "POSTGRES_WAIT_STANDBYS: GRANT pg_read_all_stats as a superuser, or with ADMIN OPTION on that role"
        )
    if target is not None and target.table.schema is None:
        notes.append(
            f"the target's schema is not named and taken to be {_target_schema(settings)}; else --target schema.table"
        )
    return notes


def render_sql_and_redis_acl(grants: Grants) -> str:
    """Return the comments, statements and ACL lines as one text."""
    notes = [f"-- {note}" for note in grants.notes]
    sql = [
        "-- PostgreSQL: as the owner, in the database of DATABASE_URL, after",
        f"-- `{command_to_type('migrate')}`. Put a password in quotes where {PASSWORD}",
        "-- stands: as it is, the statement is refused.",
        *notes,
        *grants.sql,
    ]
    redis = [
        f"# Redis: at the prompt of redis-cli{' of each node' if grants.cluster else ''}",
        "# (a shell would take & and * for its own).",
        "# Afterwards ACL SAVE or CONFIG REWRITE. Where",
        f"# {acl.PASSWORD} stands, put the output of `printf %s password | sha256sum`.",
        grants.redis,
    ]
    return "\n".join([*sql, "", *redis])
