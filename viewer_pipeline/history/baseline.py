"""The baseline: counts that existed before this pipeline, taken once. What was counted since stays what it is.

For every VOD total = baseline + counted, and taking a baseline changes total and baseline by the same number, under a
lock that no change of a total passes. So a flush that commits at the same moment is neither lost nor counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import NamedTuple

import psycopg

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.postgres import ANSWER_SECONDS, allow_long_reads, patient
from viewer_pipeline.stores.queries import fetch_one, named_queries
from viewer_pipeline.target.table import Target

SQL = named_queries(__name__)

SECONDS = 3600  # for one statement: 10 million rows take minutes
MEMORY = "64MB"
AT_ONCE = 10_000  # rows of a file in one statement

Counts = Iterable[tuple[str, int]]


class Baseline(NamedTuple):
    """What was taken, and when. `new`: by this call."""

    taken_at: datetime
    source: str
    vods: int
    views: int
    new: bool


def taken_baseline(connection: psycopg.Connection) -> Baseline | None:
    """Return what was taken; None before that."""
    row = connection.execute(SQL["baseline_taken"]).fetchone()
    return Baseline(row[0], row[1], row[2], int(row[3]), new=False) if row else None


def take_from_target(connection: psycopg.Connection, ledger: Ledger, *, again: bool = False) -> Baseline:
    """Take the counts of the target table, less what was counted into it. Once, unless `again`. One transaction."""
    target = ledger.target(connection)
    if target is None:
        raise SettingsError("TARGET_TABLE is not set, so there is no table to take the counts from")
    return _take(connection, f"target {target.said}", partial(_of_target, connection, target), again=again)


def take_counts(connection: psycopg.Connection, counts: Counts, source: str, *, again: bool = False) -> Baseline:
    """Take these counts, no VOD twice, in one transaction. Once, unless `again`; other VODs keep their baseline."""
    return _take(connection, source, partial(_of_counts, connection, counts), again=again)


def _take(connection: psycopg.Connection, source: str, take: Callable[[], None], *, again: bool) -> Baseline:
    with patient(connection, SECONDS + ANSWER_SECONDS), connection.transaction():
        connection.execute(SQL["lock_baseline"])
        taken = taken_baseline(connection)
        if taken is not None and not again:
            return taken
        allow_long_reads(connection, SECONDS, MEMORY)
        connection.execute(SQL["lock_totals"])
        take()
        taken_at, source, vods, views = fetch_one(connection, SQL["note_baseline"], source=source)
        return Baseline(taken_at, source, vods, int(views), new=True)


def _of_target(connection: psycopg.Connection, target: Target) -> None:
    connection.execute(target.statement(SQL["baseline_from_target"]))


def _of_counts(connection: psycopg.Connection, counts: Counts) -> None:
    for some in chunks(counts, AT_ONCE):
        ids, values = zip(*some, strict=True)
        connection.execute(SQL["baseline_from_counts"], {"vod_ids": list(ids), "counts": list(values)})
