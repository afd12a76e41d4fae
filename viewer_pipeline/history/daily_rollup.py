"""Daily views: the ledger, rolled up by day (of HISTORY_TIMEZONE) and VOD.

A flush belongs to the day on which its counters were read (`taken_at`), whenever it was committed. Repairs (flushes of
the mode `reconcile`) are no views.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import psycopg

from viewer_pipeline.history.days import ONE_DAY, Window
from viewer_pipeline.history.ledger_days import LedgerDays, read_ledger_days
from viewer_pipeline.history.timezone_change import delete_days_of_other_timezone, require_unchanged_timezone
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.postgres import with_reply_timeout

SQL = named_queries(__name__)

ONE_HOUR = timedelta(hours=1)
ROLLUP_SECONDS = 3600  # for one statement over a window; a day of 10 million entries takes about one minute


class Day(NamedTuple):
    """A day that was rolled up, and what the ledger says of it now."""

    day: date
    vods: int
    views: int
    kept: bool  # whether its ledger is kept; else its rows are final
    flushes: int
    ledger_views: int  # of the flushes that are rolled up
    late_flushes: int  # that came after the rollup
    starts_at: datetime
    ends_at: datetime


class RollupResult(NamedTuple):
    """The days that were rolled up, and those that are final and were left as they are."""

    window: Window
    rolled_up: list[date]
    final: list[date]
    seconds: float


def roll_up(connection: psycopg.Connection, window: Window, zone: ZoneInfo) -> RollupResult:
    """Roll up all days of a window again, or none; the same ledger gives the same rows.

    Days whose ledger was pruned are left as they are. Flushes that commit meanwhile are left to the next rollup.
    Raises HistoryTimezoneChanged if days outside the window have the bounds of another zone.
    """
    started = time.perf_counter()
    with rollup_transaction(connection):
        ledger_days = read_ledger_days(connection, zone)
        unpruned = ledger_days.unpruned(window)
        delete_days_of_other_timezone(connection, ledger_days, unpruned)
        (through,) = fetch_one(connection, SQL["ledger_position"])
        if params := _parameters(ledger_days, unpruned):
            for statement in ("delete_daily_views", "insert_daily_views", "record_rollup"):
                connection.execute(SQL[statement], params | {"through": through, "time_zone": zone.key})
    days = window.days()
    final = (unpruned.start - window.start).days
    return RollupResult(window, days[final:], days[:final], time.perf_counter() - started)


def _parameters(ledger_days: LedgerDays, window: Window) -> dict[str, Any]:
    """Return the parameters of a query over the days of a window; none for a window without days."""
    if not window.days():
        return {}
    return window._asdict() | ledger_days.bounds(window).to_parameters()


@contextmanager
def rollup_transaction(connection: psycopg.Connection) -> Iterator[None]:
    """Open a transaction with time for a rollup, during which no other one rolls up or prunes days."""
    with with_reply_timeout(connection, ROLLUP_SECONDS + 15), connection.transaction():
        connection.execute(SQL["set_rollup_limits"], {"milliseconds": str(ROLLUP_SECONDS * 1000)})
        connection.execute(SQL["lock_rollup"])
        yield


def rolled_up_days(connection: psycopg.Connection, window: Window) -> list[Day]:
    """Return the days of a window that were rolled up."""
    return [Day(*row) for row in connection.execute(SQL["rolled_up_days"], window._asdict())]


def days_unequal_to_ledger(connection: psycopg.Connection, window: Window) -> list[tuple[date, int, int]]:
    """Return (day, views in daily_views, views in the ledger) of days that differ; only days whose ledger is kept."""
    views: dict[date, int] = dict(connection.execute(SQL["views_per_day"], window._asdict()).fetchall())
    days = [
        (day.day, views.get(day.day, 0), day.ledger_views) for day in rolled_up_days(connection, window) if day.kept
    ]
    return [(day, rolled_up, ledger) for day, rolled_up, ledger in days if rolled_up != ledger]


def most_viewed_vods_of_day(connection: psycopg.Connection, day: date, limit: int) -> list[tuple[str, int]]:
    """Return (vod id, views) of the most viewed VODs of a day."""
    return list(connection.execute(SQL["most_viewed_vods_of_day"], {"day": day, "limit": limit}))


def views_per_hour(connection: psycopg.Connection, day: Day, zone: ZoneInfo) -> list[tuple[datetime, int]]:
    """Return when each hour of a day begins, in this zone, and its views, from the ledger: zeros if it was pruned."""
    number = -(-(day.ends_at - day.starts_at) // ONE_HOUR)
    hours = [day.starts_at + ONE_HOUR * hour for hour in range(number)]
    parameters = {"hours": hours, "starts_at": day.starts_at, "ends_at": day.ends_at}
    views: dict[int, int] = dict(connection.execute(SQL["views_per_hour"], parameters).fetchall()) if hours else {}
    return [(hour.astimezone(zone), views.get(place, 0)) for place, hour in enumerate(hours, 1)]


def find_windows_to_roll_up(connection: psycopg.Connection, start: date, last: date, zone: ZoneInfo) -> list[Window]:
    """Return the days from `start` to `last` that have flushes not rolled up yet, adjacent days as one window.

    Raises HistoryTimezoneChanged if days have the bounds of another zone.
    """
    ledger_days = read_ledger_days(connection, zone)
    require_unchanged_timezone(connection, ledger_days)
    windows: list[Window] = []
    if params := _parameters(ledger_days, ledger_days.unpruned(Window(start, last + ONE_DAY))):
        for (day,) in connection.execute(SQL["find_windows_to_roll_up"], params):
            if windows and windows[-1].end == day:
                windows[-1] = Window(windows[-1].start, day + ONE_DAY)
            else:
                windows.append(Window(day, day + ONE_DAY))
    return windows


def was_ever_rolled_up(connection: psycopg.Connection, day: date) -> bool:
    """Whether a day was ever rolled up."""
    return bool(fetch_one(connection, SQL["was_ever_rolled_up"], day=day)[0])
