"""Retention: prune days of the ledger that are old, rolled up and settled; prune old rejected input and parked views.

First the day from which the ledger is complete moves forward, while no other transaction rolls up days. Then earlier
flushes are deleted in chunks, each added to `pruned_flushes`. After an interruption the next run continues
(docs/adr/0009).
"""

from __future__ import annotations

import time
from datetime import date
from typing import NamedTuple
from zoneinfo import ZoneInfo

import psycopg

from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.history.daily_rollup import rollup_transaction
from viewer_pipeline.history.days import ONE_DAY, Window, day_of, start_of_day
from viewer_pipeline.history.ledger_days import read_ledger_days
from viewer_pipeline.history.timezone_change import require_unchanged_timezone
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.target.parked_views import ParkedViews, prune_parked
from viewer_pipeline.target.table import Target

SQL = named_queries(__name__)

CHUNK_FLUSHES, CHUNK_BATCHES = 200, 20_000  # of one transaction: about 0.1 s
CHUNK_ROWS = 10_000


class LedgerDay(NamedTuple):
    """The flushes of a day; `rolled_up`: the last one that is rolled up, None if the day never was.

    `complete`: False if its flushes are being pruned; then only flushes that came too late for the rollup are kept.
    """

    day: date
    flushes: int
    batches: int
    views: int
    last_flush: int
    rolled_up: int | None
    complete: bool


class LedgerPruningPlan(NamedTuple):
    """The days that can be pruned, all before `before`; and the reason if an old day cannot."""

    before: date
    days: list[LedgerDay]
    settled: int
    stop_reason: str


class Pruned(NamedTuple):
    """The number of deleted rows."""

    flushes: int = 0
    batches: int = 0
    views: int = 0
    complete: bool = True  # False if the time was over before all rows were deleted


def last_settled_flush(marker: Marker | None) -> int:
    """Return the last flush that is subtracted from Redis completely."""
    if marker is None:
        return 0
    return marker.seq if marker.batch >= marker.of else marker.seq - 1


def plan_ledger_pruning(
    connection: psycopg.Connection, before: date, marker: Marker | None, zone: ZoneInfo
) -> LedgerPruningPlan:
    """Return the days before `before` that can be pruned: up to the first that is not rolled up or not settled.

    Raises HistoryTimezoneChanged if days have the bounds of another zone: those of this zone still need the ledger.
    """
    settled = last_settled_flush(marker)
    days: list[LedgerDay] = []
    for day in _ledger_days(connection, before, zone):
        if reason := _stop_reason(day, settled, marker):
            return LedgerPruningPlan(day.day, days, settled, reason)
        days.append(day)
    return LedgerPruningPlan(before, days, settled, "")


def _ledger_days(connection: psycopg.Connection, before: date, zone: ZoneInfo) -> list[LedgerDay]:
    """Return the days before `before` that have flushes."""
    ledger_days = read_ledger_days(connection, zone)
    require_unchanged_timezone(connection, ledger_days)
    (first,) = fetch_one(connection, SQL["first_flush"])
    window = Window(before if first is None else day_of(first, zone), before)
    if not window.days():
        return []
    rows = connection.execute(SQL["ledger_days"], ledger_days.bounds(window).to_parameters())
    return [LedgerDay(*row) for row in rows]


def _stop_reason(ledger_day: LedgerDay, settled: int, marker: Marker | None) -> str:
    day = ledger_day.day
    if not ledger_day.complete:
        return ""
    if ledger_day.rolled_up is None:
        return f"{day} was never rolled up: materialize daily_views for it"
    if ledger_day.rolled_up < ledger_day.last_flush:
        return f"{day} has flushes that came after its rollup: materialize daily_views for it"
    if ledger_day.last_flush > settled:
        position = f"the marker is at flush {marker.seq}" if marker else "Redis has no marker"
        return f"{day} is not settled: its last flush is {ledger_day.last_flush}, {position}"
    return ""


def prune_ledger(
    connection: psycopg.Connection,
    before: date,
    marker: Marker | None,
    max_seconds: float,
    zone: ZoneInfo,
    *,
    keep_flush_of_marker: bool = False,
) -> Pruned:
    """Prune the ledger before `before` as far as possible, in chunks, for at most this time (and one chunk).

    `keep_flush_of_marker`: although newer ones follow, because markers of shards are there. Raises
    HistoryTimezoneChanged like `plan_ledger_pruning`.
    """
    with rollup_transaction(connection):
        plan = plan_ledger_pruning(connection, before, marker, zone)
        parameters = {"day": plan.before, "starts_at": start_of_day(plan.before, zone)}
        connection.execute(SQL["keep_ledger_from"], parameters)
    deadline, pruned = time.monotonic() + max_seconds, Pruned()
    last = plan.settled - 1 if keep_flush_of_marker else plan.settled
    params = {"settled": last, "flushes": CHUNK_FLUSHES, "batches": CHUNK_BATCHES}
    while True:
        flushes, batches, views = fetch_one(connection, SQL["prune_ledger"], **params)
        pruned = Pruned(pruned.flushes + flushes, pruned.batches + batches, pruned.views + views)
        if not flushes or time.monotonic() > deadline:
            return pruned._replace(complete=not flushes)


def prune_rejected(connection: psycopg.Connection, older_than_days: int) -> int:
    """Delete rejected input that is older than this many days; return the number of rows."""
    rows = 0
    while deleted := connection.execute(SQL["prune_rejected"], {"days": older_than_days, "limit": CHUNK_ROWS}).rowcount:
        rows += deleted
    return rows


def count_old_rejected(connection: psycopg.Connection, older_than_days: int) -> int:
    """Count the rows that `prune_rejected` would delete."""
    return int(fetch_one(connection, SQL["count_old_rejected"], days=older_than_days)[0])


def prune_all_parked(connection: psycopg.Connection, target: Target, older_than_days: int) -> ParkedViews:
    """Prune all parked views of VODs without a row that are older than this many days. Sweeps prune a part of them."""
    vods = views = 0
    while (pruned := prune_parked(connection, target, older_than_days)).vods:
        vods, views = vods + pruned.vods, views + pruned.views
    return ParkedViews(vods, views)


def count_old_parked(connection: psycopg.Connection, target: Target, older_than_days: int) -> ParkedViews:
    """Count the views that `prune_all_parked` would prune."""
    (row,) = connection.execute(target.statement(SQL["count_old_parked"]), {"days": older_than_days})
    return ParkedViews(*row)


def first_day_kept(today: date, days: int) -> date:
    """Return the first day of the ledger that is kept."""
    return today - ONE_DAY * days
