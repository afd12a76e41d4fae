"""The target table: whether flushes can use it, how much room its column has, what is parked."""

from __future__ import annotations

import psycopg
from psycopg import errors as pg
from psycopg import sql

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import TargetUnusable
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.target.parked_views import ParkedByReason, parked_by_reason
from viewer_pipeline.target.table import MAX_COUNTS, Target
from viewer_pipeline.text_formatting import views_of_vods

SQL = named_queries(__name__)

FULL_SHARE = 0.8  # of the largest value of the column's type
MAX_REASONS = 5


def check_target(ledger: Ledger) -> list[CheckResult]:
    """Read the target table and what is parked. Raises PostgresUnavailable, PostgresFailed."""
    with ledger.connect(any_server=True) as connection:
        results = _check_table(ledger, connection)
        try:
            return [*results, report_parked(parked_by_reason(connection))]
        except (pg.UndefinedTable, pg.InsufficientPrivilege):  # reported by postgres and postgres_privileges
            return results


def _check_table(ledger: Ledger, connection: psycopg.Connection) -> list[CheckResult]:
    if ledger.target_names is None:
        message = "TARGET_TABLE is not set: totals are in viewer.vod_view_counts only"
        return [CheckResult("target", "healthy", message)]
    try:
        target = ledger.target(connection)
    except TargetUnusable as error:
        remedy = f"correct what the message names; for rights, run what `{command_to_type('grants')}` prints"
        return [CheckResult("target", "unhealthy", str(error), remedy=error.remedy or remedy)]
    assert target is not None, "names were given"
    message = f"{target.sql_name}: ids are {target.id_type}, counts {target.count_type}"
    return [CheckResult("target", "healthy", message), evaluate_column_room(target, _largest_count(connection, target))]


def _largest_count(connection: psycopg.Connection, target: Target) -> int | None:
    """Return the largest count; None where that takes too long, because the column has no index."""
    table = sql.Identifier(target.schema, target.table)
    query = sql.SQL(SQL["largest_count"]).format(count=sql.Identifier(target.count_column), table=table)
    try:
        with connection.transaction():
            connection.execute("SET LOCAL statement_timeout = '5s'")
            row = connection.execute(query).fetchone()
    except pg.QueryCanceled:
        return None
    return row[0] if row else None


def evaluate_column_room(target: Target, largest: int | None) -> CheckResult:
    """Whether the largest count is well below the largest value of its type. Pure."""
    if largest is None:
        message = f"{target.sql_name} is too large to read its largest count within 5 s"
        remedy = f"read max({target.count_column}) by hand and compare it with the largest {target.count_type}"
        return CheckResult("target_room", "unknown", message, remedy=remedy)
    limit, details = MAX_COUNTS[target.count_type], {"largest": largest}
    message = f"the largest count is {largest}, {target.count_type} holds {limit}"
    if largest > FULL_SHARE * limit:
        remedy = f"ALTER TABLE {target.sql_name} ALTER COLUMN … TYPE bigint, with the tool that owns the schema"
        return CheckResult("target_room", "degraded", message, details, remedy)
    return CheckResult("target_room", "healthy", message, details)


def report_parked(parked: list[ParkedByReason]) -> CheckResult:
    """Report what is parked, which is normal where VODs were deleted. Pure."""
    if not parked:
        return CheckResult("parked", "healthy", "nothing is parked")
    vods, views = sum(row.vods for row in parked), sum(row.views for row in parked)
    reasons = "; ".join(f"{row.vods}: {row.reason}" for row in parked[:MAX_REASONS])
    message = f"{views_of_vods(views, vods)} parked ({reasons})"
    remedy = "none for deleted VODs; else insert the row, or make room for the count: they are counted then"
    return CheckResult("parked", "healthy", message, {"parked_vods": vods, "parked_views": views}, remedy)
