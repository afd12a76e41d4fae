"""The baseline: counts that existed before this pipeline, taken once. Views counted since then are not affected.

For every VOD total = baseline + counted views. Taking a baseline changes total and baseline by the same number, under a
lock that excludes all other changes of totals. So a concurrent flush is neither lost nor counted twice.
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
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.postgres import long_transaction

SQL = named_queries(__name__)

BATCH_ROWS = 10_000  # rows of a file in one statement

Counts = Iterable[tuple[str, int]]


class Baseline(NamedTuple):
    """The baseline that was taken. `new`: by this call."""

    taken_at: datetime
    source: str
    vods: int
    views: int
    new: bool


def read_baseline(connection: psycopg.Connection) -> Baseline | None:
    """Return the baseline that was taken, None if there is none."""
    row = connection.execute(SQL["read_baseline"]).fetchone()
    return Baseline._make((*row, False)) if row else None


def take_baseline_from_target(connection: psycopg.Connection, ledger: Ledger, *, again: bool = False) -> Baseline:
    """Take the counts of the target table, less the views counted into it. Once, unless `again`. One transaction."""
    target = ledger.target(connection)
    if target is None:
        raise SettingsError("TARGET_TABLE is not set, so there is no table to take the counts from")
    write = partial(connection.execute, target.statement(SQL["baseline_from_target"]))
    return _take_once(connection, f"target {target.sql_name}", write, again=again)


def take_baseline_from_counts(
    connection: psycopg.Connection, counts: Counts, source: str, *, again: bool = False
) -> Baseline:
    """Take these counts, which name no VOD twice. Once, unless `again`; other VODs keep theirs. One transaction."""
    return _take_once(connection, source, partial(_set_baselines, connection, counts), again=again)


def _take_once(connection: psycopg.Connection, source: str, write: Callable[[], object], *, again: bool) -> Baseline:
    with long_transaction(connection):
        connection.execute(SQL["lock_baseline"])
        present = read_baseline(connection)
        if present is not None and not again:
            return present
        connection.execute(SQL["lock_totals"])
        write()
        return Baseline._make((*fetch_one(connection, SQL["record_baseline"], source=source), True))


def _set_baselines(connection: psycopg.Connection, counts: Counts) -> None:
    for rows in chunks(counts, BATCH_ROWS):
        ids, values = zip(*rows, strict=True)
        connection.execute(SQL["baseline_from_counts"], {"vod_ids": list(ids), "counts": list(values)})
