"""The SQL that makes a role for just this work. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from viewer_pipeline.identifiers import TableName, quoted
from viewer_pipeline.stores.privileges import TABLES
from viewer_pipeline.target.table import TargetNames

PASSWORD = "<PASSWORD>"  # noqa: S105 - no SQL: what is printed fails as long as nobody has put a password there


def sql_lines(
    role: str, *, database: str | None, target: TargetNames | None, dagster: bool, password: str = PASSWORD
) -> Iterator[str]:
    """Yield statements. `dagster`: its storage is the schema `dagster` of this database.

    The role may read the ledger, add to it and delete from it, and not change what is in it.
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
    """Yield what Dagster needs to make its tables, and for those that somebody else has made before."""
    yield f"GRANT USAGE, CREATE ON SCHEMA dagster TO {name};"
    yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dagster TO {name};"
    yield f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA dagster TO {name};"


def _target_lines(name: str, target: TargetNames) -> Iterator[str]:
    """Yield what a flush needs of the target table: two columns, of which it writes one."""
    schema, table = target.table
    assert schema is not None, "whoever prints it has looked it up"
    ids, counts = quoted(target.id_column), quoted(target.count_column)
    yield f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {name};"
    yield f"GRANT SELECT ({ids}, {counts}), UPDATE ({counts}) ON {TableName(schema, table)} TO {name};"
