"""The SQL that creates a role with only the rights needed here. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from viewer_pipeline.identifiers import TableName, quoted
from viewer_pipeline.stores.privileges import TABLES
from viewer_pipeline.target.table import TargetNames

PASSWORD = "<PASSWORD>"  # noqa: S105 - invalid SQL: the statement fails until a password is put there


def sql_lines(
    role: str, *, database: str | None, target: TargetNames | None, dagster: bool, password: str = PASSWORD
) -> Iterator[str]:
    """Yield statements. `dagster`: its storage is the schema `dagster` of this database.

    The role may read, insert into and delete from the ledger, but not update its rows.
    """
    name = quoted(role)
    yield f"CREATE ROLE {name} LOGIN PASSWORD {password};"
    if database is not None:
        yield f"GRANT CONNECT ON DATABASE {quoted(database)} TO {name};"
    yield f"GRANT USAGE ON SCHEMA viewer TO {name};"
    for table, privileges in TABLES.items():
        yield f"GRANT {', '.join(privileges)} ON viewer.{table} TO {name};"
    if dagster:
        yield from _dagster_lines(name)
    if target is not None:
        yield from _target_lines(name, target)


def _dagster_lines(name: str) -> Iterator[str]:
    """Yield the rights that Dagster needs to create its tables, and on tables that another role created before."""
    yield f"GRANT USAGE, CREATE ON SCHEMA dagster TO {name};"
    yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dagster TO {name};"
    yield f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA dagster TO {name};"


def _target_lines(name: str, target: TargetNames) -> Iterator[str]:
    """Yield the rights that a flush needs on the target table: two columns, of which it writes one."""
    schema, table = target.table
    assert schema is not None, "the caller names a schema"
    ids, counts = quoted(target.id_column), quoted(target.count_column)
    yield f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {name};"
    yield f"GRANT SELECT ({ids}, {counts}), UPDATE ({counts}) ON {TableName(schema, table)} TO {name};"
