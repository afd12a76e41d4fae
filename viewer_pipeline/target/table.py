"""The user's own table: what is asked of it, and the statements that add to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import psycopg
from psycopg import errors as pg
from psycopg import sql

from viewer_pipeline.errors import TargetUnusable
from viewer_pipeline.identifiers import TableName, parse_column, parse_table, quoted
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.privileges import TABLES as OURS
from viewer_pipeline.stores.queries import named_queries

SQL = named_queries(__name__)

MOST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}

# The id of a VOD in the type of the column, NULL where it can be none: then nothing is cast that would raise an error.
# Ids that PostgreSQL writes otherwise than the producer are one and the same to it, such as a UUID in capitals.
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
_SUMS = "SELECT key, sum(delta) AS delta FROM due WHERE key IS NOT NULL GROUP BY key ORDER BY key"
_SUMS_OF_TEXT = "SELECT key, delta FROM due"  # ids that differ are different rows: nothing to add up
_FREE_SUMS = """SELECT u.key, u.delta FROM ({sums}) AS u JOIN {table} AS t ON t.{id} = u.key
    ORDER BY u.key FOR NO KEY UPDATE OF t SKIP LOCKED"""


@dataclass(frozen=True)
class TargetNames:
    """The target table as the settings name it."""

    table: TableName
    id_column: str
    count_column: str

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return what the settings say; None where no table is named."""
        if settings.target_table is None:
            return None
        return cls.parse(settings.target_table, settings.target_id_column, settings.target_count_column)

    @classmethod
    def parse(cls, table: str, id_column: str, count_column: str) -> Self:
        """Read the three settings. Raises ValueError."""
        return cls(parse_table(table), parse_column(id_column), parse_column(count_column))


class _Described(NamedTuple):
    """A row of the query describe_target; a column that is missing has no type."""

    schema: str
    table: str
    kind: str
    hides_rows: bool
    rewrites_updates: bool
    id_type: str | None
    collation_schema: str | None
    collation: str | None
    tells_ids_apart: bool
    unique: bool
    count_type: str | None
    generated: bool | None
    may_read_id: bool | None
    may_read_count: bool | None
    may_write_count: bool | None


@dataclass(frozen=True)
class Target:
    """A target table that can be used, as the catalog describes it."""

    schema: str
    table: str
    id_column: str
    id_type: str
    count_column: str
    count_type: str
    collation: tuple[str, str] | None = None  # schema and name: that of the id column and its index

    @property
    def said(self) -> str:
        """Return its name as SQL takes it."""
        return str(TableName(self.schema, self.table))

    def statement(self, query: str, *, skip_locked: bool = False) -> sql.Composed:
        """Return a named query for this table. `{key}`: the id of a batch's row, `{parked_key}`: of a parked row."""
        table, id_column = _name(self.schema, self.table), _name(self.id_column)
        sums = sql.SQL(_SUMS_OF_TEXT if KEYS[self.id_type] == KEYS["text"] else _SUMS)
        return sql.SQL(query).format(
            table=table,
            id=id_column,
            count=_name(self.count_column),
            most=sql.Literal(MOST[self.count_type]),
            key=self._key("c"),
            parked_key=self._key("p"),
            sums=sql.SQL(_FREE_SUMS).format(sums=sums, table=table, id=id_column) if skip_locked else sums,
            no_key=_text(f"no id of type {self.id_type}"),
            no_row=_text(f"no row in {self.said}"),
            no_room=_text(f"{self.said}.{quoted(self.count_column)} would be over {self.count_type}"),
            locked=_text(f"row in {self.said} was locked"),
            not_written=_text(f"row in {self.said} was not written: a trigger skipped it, or it went at that moment"),
        )

    def _key(self, alias: str) -> sql.Composable:
        key: sql.Composable = sql.SQL(KEYS[self.id_type].replace("c.vod_id", f"{alias}.vod_id"))
        # Ids of ours have another collation, and an index serves comparisons in its own only.
        return key if self.collation is None else key + sql.SQL(" COLLATE ") + _name(*self.collation)


def _name(*names: str) -> sql.Identifier:
    return sql.Identifier(*(name.replace("%", "%%") for name in names))  # in a statement with parameters


def _text(text: str) -> sql.Literal:
    return sql.Literal(text.replace("%", "%%"))


def find_target(connection: psycopg.Connection, names: TargetNames) -> Target:
    """Look the target table up. Raises TargetUnusable, which names all that is missing and what would give it."""
    parameters = {"name": str(names.table), "id": names.id_column, "count": names.count_column}
    try:
        row = connection.execute(SQL["describe_target"], parameters).fetchone()
    except pg.InsufficientPrivilege as error:
        raise TargetUnusable(f"TARGET_TABLE={str(names.table)!r}: {str(error).strip()}") from error
    if row is None:
        raise TargetUnusable(f"TARGET_TABLE={str(names.table)!r}: there is no such table{_where(connection, names)}")
    found = _Described(*row)
    if problems := list(_problems(found, names)):
        raise TargetUnusable("; ".join(problems))
    assert found.id_type is not None
    assert found.count_type is not None
    collation = None
    if found.collation_schema is not None and found.collation is not None:
        collation = found.collation_schema, found.collation
    return Target(
        found.schema,
        found.table,
        names.id_column,
        found.id_type,
        names.count_column,
        found.count_type,
        collation,
    )


def _where(connection: psycopg.Connection, names: TargetNames) -> str:
    if names.table.schema is not None:
        return ""
    row = connection.execute("SELECT array_to_string(current_schemas(FALSE), ', ')").fetchone()
    return f" on the search_path ({row[0] if row else ''}); names are taken exactly as written, capitals too"


def _problems(found: _Described, names: TargetNames) -> Iterator[str]:
    table = str(TableName(found.schema, found.table))
    if found.kind not in ("r", "p"):
        yield f"TARGET_TABLE={table}: expected a table, not a view or something else"
    if found.schema == "viewer" and found.table in OURS:
        yield f"TARGET_TABLE={table}: is one of Viewer Pipeline's own tables"
    if found.rewrites_updates:
        yield f"TARGET_TABLE={table}: has a rule for UPDATE; a trigger can do the same"
    if found.hides_rows:
        yield f"TARGET_TABLE={table}: row security hides rows from this role; it needs BYPASSRLS"
    yield from (f"TARGET_ID_COLUMN={quoted(names.id_column)}: {said}" for said in _problems_of_id(found, names, table))
    yield from (
        f"TARGET_COUNT_COLUMN={quoted(names.count_column)}: {said}" for said in _problems_of_count(found, names, table)
    )


def _problems_of_id(found: _Described, names: TargetNames, table: str) -> Iterator[str]:
    if found.id_type is None:
        yield f"{table} has no such column"
        return
    if found.id_type not in KEYS:
        yield f"is of type {found.id_type}, expected {_or(list(KEYS))}"
    if not found.tells_ids_apart:
        yield "its collation takes different ids for equal ones"
    if not found.unique:
        yield "has no unique index of its own, in its collation"
    if not found.may_read_id:
        yield f"this role lacks GRANT SELECT ({quoted(names.id_column)}) ON {table}"


def _problems_of_count(found: _Described, names: TargetNames, table: str) -> Iterator[str]:
    if found.count_type is None:
        yield f"{table} has no such column"
        return
    if found.count_type not in MOST:
        yield f"is of type {found.count_type}, expected {_or(list(MOST))}"
    if names.count_column == names.id_column:
        yield "is the TARGET_ID_COLUMN as well"
    if found.generated:
        yield "is generated and cannot be written"
    for privilege, may in (("SELECT", found.may_read_count), ("UPDATE", found.may_write_count)):
        if not may:
            yield f"this role lacks GRANT {privilege} ({quoted(names.count_column)}) ON {table}"


def _or(names: list[str]) -> str:
    *some, last = names
    return f"{', '.join(some)} or {last}"
