"""Retention: prune days of the ledger that are old, rolled up and settled; prune old rejected input and parked views.

First the day from which the ledger is complete moves forward, while no other transaction rolls up days. Then earlier
flushes are deleted in chunks, each added to `pruned_flushes`. After an interruption the next run continues
(docs/adr/0009).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from viewer_pipeline.streams import NUMBERS, format_seq, stream_of
from viewer_pipeline.target.parked_views import ParkedViews, prune_parked
from viewer_pipeline.target.table import Target

SQL = named_queries(__name__)

CHUNK_FLUSHES, CHUNK_BATCHES = 200, 20_000  # of one transaction: about 0.1 s
CHUNK_ROWS = 10_000


class LedgerDay(NamedTuple):
    """The flushes of a day.

    `complete`: False if its flushes are being pruned; then only flushes that came too late for the rollup are kept.
    """

    day: date
    flushes: int
    batches: int
    views: int
    has_rollup: bool
    is_rolled_up: bool  # all of them
    first_unsettled: int | None  # the first flush that Redis has not settled
    complete: bool


class LedgerPruningPlan(NamedTuple):
    """The days that can be pruned, all before `before`; and the reason if an old day cannot."""

    before: date
    days: list[LedgerDay]
    stop_reason: str


class Pruned(NamedTuple):
    """The number of deleted rows."""

    flushes: int = 0
    batches: int = 0
    views: int = 0
    complete: bool = True  # False if the time was over before all rows were deleted


def settled_flushes(markers: Sequence[Marker], *, keep_last: bool = False) -> str:
    """Return the flushes that are subtracted from Redis completely, as PostgreSQL writes a multirange of their numbers.

    `markers`: one for each stream. `keep_last`: without the last flush of each.
    """
    ranges = []
    for marker in markers:
        last = marker.seq if marker.batch >= marker.of else marker.seq - 1
        first = stream_of(marker.seq) * NUMBERS
        if (last := last - keep_last) >= first:
            ranges.append(f"[{first},{last}]")
    return f"{{{','.join(ranges)}}}"


def plan_ledger_pruning(
    connection: psycopg.Connection, before: date, markers: Sequence[Marker], zone: ZoneInfo
) -> LedgerPruningPlan:
    """Return the days before `before` that can be pruned: up to the first that is not rolled up or not settled.

    `markers`: one for each stream. Raises HistoryTimezoneChanged if days have the bounds of another zone: those of this
    zone still need the ledger.
    """
    days: list[LedgerDay] = []
    for day in _ledger_days(connection, before, markers, zone):
        if reason := _stop_reason(day, markers):
            return LedgerPruningPlan(day.day, days, reason)
        days.append(day)
    return LedgerPruningPlan(before, days, "")


def _ledger_days(
    connection: psycopg.Connection, before: date, markers: Sequence[Marker], zone: ZoneInfo
) -> list[LedgerDay]:
    """Return the days before `before` that have flushes."""
    ledger_days = read_ledger_days(connection, zone)
    require_unchanged_timezone(connection, ledger_days)
    (first,) = fetch_one(connection, SQL["first_flush"])
    window = Window(before if first is None else day_of(first, zone), before)
    if not window.days():
        return []
    parameters = ledger_days.bounds(window).to_parameters() | {"settled": settled_flushes(markers)}
    rows = connection.execute(SQL["ledger_days"], parameters)
    return [LedgerDay(*row) for row in rows]


def _stop_reason(ledger_day: LedgerDay, markers: Sequence[Marker]) -> str:
    day = ledger_day.day
    if not ledger_day.complete:
        return ""
    if not ledger_day.has_rollup:
        return f"{day} was never rolled up: materialize daily_views for it"
    if not ledger_day.is_rolled_up:
        return f"{day} has flushes that came after its rollup: materialize daily_views for it"
    if (flush := ledger_day.first_unsettled) is not None:
        at = next((marker.seq for marker in markers if stream_of(marker.seq) == stream_of(flush)), None)
        position = "Redis has no marker" if at is None else f"the marker is at flush {format_seq(at)}"
        return f"{day} is not settled: it has flush {format_seq(flush)}, {position}"
    return ""


def prune_ledger(
    connection: psycopg.Connection,
    before: date,
    markers: Sequence[Marker],
    max_seconds: float,
    zone: ZoneInfo,
    *,
    keep_flush_of_marker: bool = False,
) -> Pruned:
    """Prune the ledger before `before` as far as possible, in chunks, for at most this time (and one chunk).

    `markers`: one for each stream. `keep_flush_of_marker`: although newer ones follow, because markers of shards are
    there. Raises HistoryTimezoneChanged like `plan_ledger_pruning`.
    """
    with rollup_transaction(connection):
        plan = plan_ledger_pruning(connection, before, markers, zone)
        parameters = {"day": plan.before, "starts_at": start_of_day(plan.before, zone)}
        connection.execute(SQL["keep_ledger_from"], parameters)
    deadline, pruned = time.monotonic() + max_seconds, Pruned()
    settled = settled_flushes(markers, keep_last=keep_flush_of_marker)
    params = {"settled": settled, "flushes": CHUNK_FLUSHES, "batches": CHUNK_BATCHES}
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
