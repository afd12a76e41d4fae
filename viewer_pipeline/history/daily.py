"""Daily views: the ledger, added up by day (UTC) and VOD.

A flush belongs to the day on which its counters were read (`taken_at`), whenever it was committed. Repairs (flushes of
the mode `reconcile`) are no views.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import NamedTuple

import psycopg

from viewer_pipeline.stores.postgres import patient
from viewer_pipeline.stores.queries import fetch_one, named_queries

SQL = named_queries(__name__)

ROLLUP_SECONDS = 3600  # for one statement over a window; a day of 10 million entries takes about one minute
ONE_DAY = timedelta(days=1)


class Window(NamedTuple):
    """Days from `start` up to and not including `end`."""

    start: date
    end: date

    def days(self) -> list[date]:
        """Return each of them."""
        return [self.start + timedelta(days=number) for number in range((self.end - self.start).days)]


class Day(NamedTuple):
    """What is known of a day that was rolled up."""

    day: date
    vods: int
    views: int
    last_flush: int
    kept: bool  # whether its ledger is there; else its rows are final
    flushes: int
    ledger_views: int  # of the flushes up to last_flush
    behind: int  # flushes that came later


class RolledUp(NamedTuple):
    """What rolling up did: the days that were added up anew, and those that are final."""

    window: Window
    added_up: list[date]
    final: list[date]
    seconds: float


def roll_up(connection: psycopg.Connection, window: Window) -> RolledUp:
    """Add the days of a window up anew, all or none; the same ledger gives the same rows.

    Days whose ledger was dropped are left as they are. Flushes that commit meanwhile are for the next time.
    """
    started = time.perf_counter()
    with alone(connection):
        start, through = fetch_one(connection, SQL["rollup_window"], start=window.start)
        start = min(start, window.end)
        parameters = {"start": start, "end": window.end, "through": through}
        if start < window.end:
            for statement in ("delete_daily_views", "insert_daily_views", "note_rollup"):
                connection.execute(SQL[statement], parameters)
    days = window.days()
    final = (start - window.start).days
    return RolledUp(window, days[final:], days[:final], time.perf_counter() - started)


@contextmanager
def alone(connection: psycopg.Connection) -> Iterator[None]:
    """Open a transaction beside which nobody rolls days up or drops them, with time to finish."""
    with patient(connection, ROLLUP_SECONDS + 15), connection.transaction():
        connection.execute(SQL["bound_rollup"], {"milliseconds": str(ROLLUP_SECONDS * 1000)})
        connection.execute(SQL["lock_daily"])
        yield


def rolled_up_days(connection: psycopg.Connection, window: Window) -> list[Day]:
    """Read what is known of the days of a window that were rolled up."""
    rows = connection.execute(SQL["rolled_up_days"], window._asdict())
    return [
        Day(day, vods, int(views), last_flush, kept, flushes, int(ledger_views), behind)
        for day, vods, views, last_flush, kept, flushes, ledger_views, behind in rows
    ]


def unequal_days(connection: psycopg.Connection, window: Window) -> list[tuple[date, int, int]]:
    """Return (day, views in daily_views, views in the ledger) of days that differ; only days whose ledger is kept."""
    sums = {day: int(views) for day, views in connection.execute(SQL["sum_daily_views"], window._asdict())}
    days = [one for one in rolled_up_days(connection, window) if one.kept]
    return [
        (one.day, sums.get(one.day, 0), one.ledger_views) for one in days if sums.get(one.day, 0) != one.ledger_views
    ]


def top_of_day(connection: psycopg.Connection, day: date, limit: int) -> list[tuple[str, int]]:
    """Return (vod id, views) of the VODs with the most views of a day."""
    return list(connection.execute(SQL["top_of_day"], {"day": day, "limit": limit}))


def views_per_hour(connection: psycopg.Connection, day: date) -> list[int]:
    """Return 24 numbers, from the ledger: zeros where it was dropped."""
    hours = {hour: int(views) for hour, views in connection.execute(SQL["views_per_hour"], {"day": day})}
    return [hours.get(hour, 0) for hour in range(24)]


def stale_days(connection: psycopg.Connection, start: date, last: date) -> list[Window]:
    """Return the days from `start` to `last` that have flushes which are not added up yet, as windows without gaps."""
    windows: list[Window] = []
    for (day,) in connection.execute(SQL["stale_days"], {"start": start, "last": last}):
        if windows and windows[-1].end == day:
            windows[-1] = Window(windows[-1].start, day + ONE_DAY)
        else:
            windows.append(Window(day, day + ONE_DAY))
    return windows


def is_rolled_up(connection: psycopg.Connection, day: date) -> bool:
    """Whether a day was ever added up."""
    return bool(fetch_one(connection, SQL["is_rolled_up"], day=day)[0])
