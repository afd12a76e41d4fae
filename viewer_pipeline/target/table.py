"""The target table, the user's own: its requirements, and the statements that add to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import psycopg
from psycopg import errors as pg
from psycopg import sql

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import TargetUnusable
from viewer_pipeline.settings import Settings
from viewer_pipeline.sql_identifiers import TableName, parse_column, parse_table, quoted
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.stores.table_privileges_and_redis_commands import TABLE_PRIVILEGES as OURS

SQL = named_queries(__name__)

MAX_COUNTS = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}

# The id of a VOD in the type of the column; NULL if the type has no such value, so that no cast raises an error. Ids
# that PostgreSQL writes in another way than the producer, such as a UUID in capitals, are equal to it.
_IN_RANGE = (
    "CASE WHEN c.vod_id ~ '^[+-]?[0-9]{{1,19}}$' THEN"
    " CASE WHEN c.vod_id::numeric BETWEEN {0} AND {1} THEN c.vod_id::{2} END END"
)
KEYS = {
    "text": "c.vod_id",
    "character varying": "c.vod_id",
    "uuid": "CASE WHEN c.vod_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN c.vod_id::uuid END",
    "integer": _IN_RANGE.format(-(2**31), 2**31 - 1, "integer"),
    "bigint": _IN_RANGE.format(-(2**63), 2**63 - 1, "bigint"),
}
_MERGED = "SELECT key, sum(delta) AS delta FROM due WHERE key IS NOT NULL GROUP BY key ORDER BY key"
_MERGED_TEXT = "SELECT key, delta FROM due"  # different ids are different rows: nothing to merge
_MERGED_UNLOCKED = """SELECT u.key, u.delta FROM ({merged}) AS u JOIN {table} AS t ON t.{id} = u.key
    ORDER BY u.key FOR NO KEY UPDATE OF t SKIP LOCKED"""


@dataclass(frozen=True)
class TargetNames:
    """The names of the target table in the settings."""

    table: TableName
    id_column: str
    count_column: str

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return the names in the settings; None if no table is configured."""
        if settings.target_table is None:
            return None
        return cls.parse(settings.target_table, settings.target_id_column, settings.target_count_column)

    @classmethod
    def parse(cls, table: str, id_column: str, count_column: str) -> Self:
        """Parse the three settings. Raises ValueError."""
        return cls(parse_table(table), parse_column(id_column), parse_column(count_column))


class _Description(NamedTuple):
    """A row of the query describe_target; a missing column has an empty type."""

    schema: str
    table: str
    kind: str
    hides_rows: bool
    rewrites_updates: bool
    id_type: str
    collation_schema: str | None
    collation: str | None
    distinguishes_ids: bool
    unique: bool
    count_type: str
    generated: bool | None
    may_read_id: bool | None
    may_read_count: bool | None
    may_write_count: bool | None


@dataclass(frozen=True)
class Target:
    """A usable target table, as the catalog describes it."""

    schema: str
    table: str
    id_column: str
    id_type: str
    count_column: str
    count_type: str
    collation: tuple[str, str] | None = None  # schema and name: that of the id column and its index

    @property
    def sql_name(self) -> str:
        """The quoted name."""
        return str(TableName(self.schema, self.table))

    def statement(self, query: str, *, skip_locked: bool = False) -> sql.Composed:
        """Return a named query for this table. `{key}`: the id of a batch's row; `{parked_key}`: of a parked row."""
        table, id_column = _name(self.schema, self.table), _name(self.id_column)
        merged: sql.Composable = sql.SQL(_MERGED_TEXT if KEYS[self.id_type] == KEYS["text"] else _MERGED)
        if skip_locked:
            merged = sql.SQL(_MERGED_UNLOCKED).format(merged=merged, table=table, id=id_column)
        return sql.SQL(query).format(
            table=table,
            id=id_column,
            count=_name(self.count_column),
            max_count=sql.Literal(MAX_COUNTS[self.count_type]),
            key=self._key("c"),
            parked_key=self._key("p"),
            merged=merged,
            no_key=_text(f"no id of type {self.id_type}"),
            no_row=_text(f"no row in {self.sql_name}"),
            no_room=_text(f"{self.sql_name}.{quoted(self.count_column)} would be over {self.count_type}"),
            locked=_text(f"row in {self.sql_name} was locked"),
            not_written=_text(
                f"row in {self.sql_name} was not written: a trigger skipped it, or it went at that moment"
            ),
        )

    def _key(self, alias: str) -> sql.Composable:
        key: sql.Composable = sql.SQL(KEYS[self.id_type].replace("c.vod_id", f"{alias}.vod_id"))
        # Our ids have another collation, and an index serves comparisons in its own collation only.
        return key if self.collation is None else key + sql.SQL(" COLLATE ") + _name(*self.collation)


def _name(*names: str) -> sql.Identifier:
    return sql.Identifier(*(name.replace("%", "%%") for name in names))  # in a statement with parameters


def _text(text: str) -> sql.Literal:
    return sql.Literal(text.replace("%", "%%"))


def find_target(connection: psycopg.Connection, names: TargetNames) -> Target:
    """Look the target table up. Raises TargetUnusable, which names everything that is missing, and how to grant it."""
    parameters = {"name": str(names.table), "id": names.id_column, "count": names.count_column}
    try:
        row = connection.execute(SQL["describe_target"], parameters).fetchone()
    except pg.InsufficientPrivilege as error:
        raise TargetUnusable(f"TARGET_TABLE={names.table}: {str(error).strip()}") from error
    if row is None:
        raise TargetUnusable(
            f"TARGET_TABLE={names.table}: there is no such table{_where(connection, names)}",
            f"create the table, or correct TARGET_TABLE; see `{command_to_type('docs own-table')}`",
        )
    description = _Description(*row)
    if problems := list(_problems(description, names)):
        raise TargetUnusable("; ".join(problems))
    columns = names.id_column, description.id_type, names.count_column, description.count_type
    schema, name = description.collation_schema, description.collation
    return Target(description.schema, description.table, *columns, (schema, name) if schema and name else None)


def _where(connection: psycopg.Connection, names: TargetNames) -> str:
    if names.table.schema is not None:
        return ""
    if "." in names.table.table:
        return ", whose own name has a dot; without quotes around all of it, the dot separates schema and table"
    row = connection.execute("SELECT array_to_string(current_schemas(FALSE), ', ')").fetchone()
    return f" on the search_path ({row[0] if row else ''}); names are taken exactly as written, capitals too"


def _problems(description: _Description, names: TargetNames) -> Iterator[str]:
    table = str(TableName(description.schema, description.table))
    if description.kind not in ("r", "p"):
        yield f"TARGET_TABLE={table}: expected a table, not a view or something else"
    if description.schema == "viewer" and description.table in OURS:
        yield f"TARGET_TABLE={table}: is one of Viewer Pipeline's own tables"
    if description.rewrites_updates:
        yield f"TARGET_TABLE={table}: has a rule for UPDATE; a trigger can do the same"
    if description.hides_rows:
        yield f"TARGET_TABLE={table}: row security hides rows from this role; it needs BYPASSRLS"
    yield from (
        f"TARGET_ID_COLUMN={quoted(names.id_column)}: {problem}" for problem in _id_problems(description, names, table)
    )
    yield from (
        f"TARGET_COUNT_COLUMN={quoted(names.count_column)}: {problem}"
        for problem in _count_problems(description, names, table)
    )


def _id_problems(description: _Description, names: TargetNames, table: str) -> Iterator[str]:
    if not description.id_type:
        yield f"{table} has no such column"
        return
    if description.id_type not in KEYS:
        yield f"is of type {description.id_type}, expected {_or(list(KEYS))}"
    if not description.distinguishes_ids:
        yield "its collation takes different ids for equal ones"
    if not description.unique:
        yield "has no unique index of its own, in its collation"
    if not description.may_read_id:
        yield f"this role needs GRANT SELECT ({quoted(names.id_column)}) ON {table}"


def _count_problems(description: _Description, names: TargetNames, table: str) -> Iterator[str]:
    if not description.count_type:
        yield f"{table} has no such column"
        return
    if description.count_type not in MAX_COUNTS:
        yield f"is of type {description.count_type}, expected {_or(list(MAX_COUNTS))}"
    if names.count_column == names.id_column:
        yield "is the TARGET_ID_COLUMN as well"
    if description.generated:
        yield "is generated and cannot be written"
    for privilege, may in (("SELECT", description.may_read_count), ("UPDATE", description.may_write_count)):
        if not may:
            yield f"this role needs GRANT {privilege} ({quoted(names.count_column)}) ON {table}"


def _or(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"
