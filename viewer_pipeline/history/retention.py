"""What of the ledger is dropped: days that are old, added up and settled; and how.

First the day from which the ledger is whole moves forward, alone with who rolls days up; then the flushes before it are
deleted in chunks, each with its sums kept. Wherever this stops, the next time goes on (docs/adr/0009).
"""

from __future__ import annotations

import time
from datetime import date
from typing import NamedTuple

import psycopg

from viewer_pipeline.flush.redis_store import Marker
from viewer_pipeline.history.daily import ONE_DAY, alone
from viewer_pipeline.stores.queries import fetch_one, named_queries
from viewer_pipeline.target.parked import ParkedViews, prune_parked
from viewer_pipeline.target.table import Target

SQL = named_queries(__name__)

FLUSHES_AT_ONCE, BATCHES_AT_ONCE = 200, 20_000  # of one transaction: about 0.1 s
REJECTED_AT_ONCE = 10_000


class LedgerDay(NamedTuple):
    """The flushes of a day; `rolled_up`: the last one that is added up, None where the day never was.

    `whole`: else its flushes are being dropped, and those that came too late to be added up are all that will stay.
    """

    day: date
    flushes: int
    batches: int
    views: int
    last_flush: int
    rolled_up: int | None
    whole: bool


class LedgerPlan(NamedTuple):
    """Which days can be dropped, `before` not included; and why no more of those that are old, in words."""

    before: date
    days: list[LedgerDay]
    settled: int
    why_no_more: str


class Pruned(NamedTuple):
    """What was deleted."""

    flushes: int = 0
    batches: int = 0
    views: int = 0
    ended: bool = True  # else the time was over


def settled_through(marker: Marker | None) -> int:
    """Return the last flush of which nothing is left to subtract from Redis."""
    if marker is None:
        return 0
    return marker.seq if marker.batch >= marker.of else marker.seq - 1


def plan_ledger(connection: psycopg.Connection, limit: date, marker: Marker | None) -> LedgerPlan:
    """Return which days before `limit` can be dropped: all before the first that is not added up or not settled."""
    settled = settled_through(marker)
    days: list[LedgerDay] = []
    for day, flushes, batches, views, *rest in connection.execute(SQL["ledger_days"], {"before": limit}):
        one = LedgerDay(day, flushes, int(batches), int(views), *rest)
        if why := _why_not(one, settled, marker):
            return LedgerPlan(day, days, settled, why)
        days.append(one)
    return LedgerPlan(limit, days, settled, "")


def _why_not(one: LedgerDay, settled: int, marker: Marker | None) -> str:
    if not one.whole:
        return ""
    if one.rolled_up is None:
        return f"{one.day} was never added up: materialize daily_views for it"
    if one.rolled_up < one.last_flush:
        return f"{one.day} got flushes after it was added up: materialize daily_views for it"
    if one.last_flush > settled:
        where = f"the marker is at flush {marker.seq}" if marker else "Redis has no marker"
        return f"{one.day} is not settled: its last flush is {one.last_flush}, {where}"
    return ""


def prune_ledger(connection: psycopg.Connection, limit: date, marker: Marker | None, seconds: float) -> Pruned:
    """Drop what can be dropped before `limit`, in chunks, for at most so many seconds (and one chunk)."""
    with alone(connection):
        plan = plan_ledger(connection, limit, marker)
        connection.execute(SQL["keep_ledger_from"], {"day": plan.before})
    deadline, done = time.monotonic() + seconds, Pruned()
    parameters = {"settled": plan.settled, "flushes": FLUSHES_AT_ONCE, "batches": BATCHES_AT_ONCE}
    while True:
        flushes, batches, views = fetch_one(connection, SQL["prune_ledger"], **parameters)
        done = Pruned(done.flushes + flushes, done.batches + batches, done.views + int(views))
        if not flushes or time.monotonic() > deadline:
            return done._replace(ended=not flushes)


def prune_rejected(connection: psycopg.Connection, days: int) -> int:
    """Forget rejected input that is older than so many days; return how many rows."""
    done = 0
    while gone := connection.execute(SQL["prune_rejected"], {"days": days, "some": REJECTED_AT_ONCE}).rowcount:
        done += gone
    return done


def old_rejected(connection: psycopg.Connection, days: int) -> int:
    """Count what `prune_rejected` would forget."""
    return int(fetch_one(connection, SQL["count_old_rejected"], days=days)[0])


def prune_all_parked(connection: psycopg.Connection, target: Target, days: int) -> ParkedViews:
    """Give up all parked views of VODs without a row that are older than so many days; sweeps give up some, too."""
    vods = views = 0
    while (gone := prune_parked(connection, target, days)).vods:
        vods, views = vods + gone.vods, views + gone.views
    return ParkedViews(vods, views)


def old_parked(connection: psycopg.Connection, target: Target, days: int) -> ParkedViews:
    """Count what `prune_all_parked` would give up."""
    ((vods, views),) = connection.execute(target.statement(SQL["count_old_parked"]), {"days": days})
    return ParkedViews(int(vods), int(views))


def first_day_kept(today: date, days: int) -> date:
    """Return the day before which the ledger is old."""
    return today - ONE_DAY * days
