"""The target table: whether it can be used, how much room its column has, what is parked."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg import errors as pg
from psycopg import sql

from viewer_pipeline.errors import TargetUnusable
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.monitoring.doctor.finding import Finding
from viewer_pipeline.target.parked import ParkedSum, parked_by_reason
from viewer_pipeline.target.table import MOST, Target

FULL = 0.8  # share of what the type of the column holds
LARGEST = "SELECT coalesce(max({count}), 0)::bigint FROM {table}"


def examine_target(ledger: Ledger) -> Iterator[Finding]:
    """Look at it. Raises PostgresUnavailable, PostgresFailed."""
    with ledger.connect(any_server=True) as connection:
        if ledger.target_names is None:
            what = "TARGET_TABLE is not set: totals are in viewer.vod_view_counts alone"
            yield Finding("target", "note", what, "docs/how-to/own-table.md, if you want them in a table of your own")
        else:
            try:
                target = ledger.target(connection)
            except TargetUnusable as error:
                do = "what the sentence says is missing; for rights, `viewer-pipeline grants`"
                yield Finding("target", "problem", str(error), do)
            else:
                assert target is not None, "names were given"
                yield Finding("target", "ok", f"{target.said}: ids are {target.id_type}, counts {target.count_type}")
                yield judge_room(target, _largest(connection, target))
        try:
            parked = parked_by_reason(connection)
        except (pg.UndefinedTable, pg.InsufficientPrivilege):  # schema and rights have findings of their own
            return
        yield judge_parked(parked)


def _largest(connection: psycopg.Connection, target: Target) -> int | None:
    """Return the largest count; None where that takes too long: the column has no index, and need not have one."""
    table = sql.Identifier(target.schema, target.table)
    query = sql.SQL(LARGEST).format(count=sql.Identifier(target.count_column), table=table)
    try:
        with connection.transaction():
            connection.execute("SET LOCAL statement_timeout = '5s'")
            row = connection.execute(query).fetchone()
    except pg.QueryCanceled:
        return None
    return row[0] if row else None


def judge_room(target: Target, largest: int | None) -> Finding:
    """Judge how near the largest count is to what its type holds. Pure."""
    if largest is None:
        return Finding("target_room", "note", f"{target.said} is too large to look for its largest count in 5 s")
    most = MOST[target.count_type]
    what = f"the largest count is {largest}, {target.count_type} holds {most}"
    if largest > FULL * most:
        do = f"ALTER TABLE {target.said} ALTER COLUMN … TYPE bigint, with the tool that owns the schema"
        return Finding("target_room", "warning", what, do, {"largest": largest})
    return Finding("target_room", "ok", what, figures={"largest": largest})


def judge_parked(parked: list[ParkedSum]) -> Finding:
    """Say what is parked. Pure."""
    if not parked:
        return Finding("parked", "ok", "nothing is parked")
    vods, views = sum(one.vods for one in parked), sum(one.views for one in parked)
    by_reason = "; ".join(f"{one.vods}: {one.reason}" for one in parked[:5])
    what = f"{views} views of {vods} VODs are parked ({by_reason})"
    do = "nothing where VODs were deleted; else make the row, or room for the count: they are counted then"
    return Finding("parked", "note", what, do, {"parked_vods": vods, "parked_views": views})
