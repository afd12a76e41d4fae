"""Daily views: the ledger, rolled up by day (UTC) and VOD.

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

from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.postgres import with_reply_timeout

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
    """A day that was rolled up, and what the ledger says of it now."""

    day: date
    vods: int
    views: int
    last_flush: int
    kept: bool  # whether its ledger is kept; else its rows are final
    flushes: int
    ledger_views: int  # of the flushes up to last_flush
    late_flushes: int  # that came after the rollup


class RollupResult(NamedTuple):
    """The days that were rolled up, and those that are final and were left as they are."""

    window: Window
    rolled_up: list[date]
    final: list[date]
    seconds: float


def roll_up(connection: psycopg.Connection, window: Window) -> RollupResult:
    """Roll up all days of a window again, or none; the same ledger gives the same rows.

    Days whose ledger was pruned are left as they are. Flushes that commit meanwhile are left to the next rollup.
    """
    started = time.perf_counter()
    with rollup_transaction(connection):
        start, through = fetch_one(connection, SQL["rollup_window"], start=window.start)
        start = min(start, window.end)
        params = {"start": start, "end": window.end, "through": through}
        if start < window.end:
            for statement in ("delete_daily_views", "insert_daily_views", "record_rollup"):
                connection.execute(SQL[statement], params)
    days = window.days()
    final = (start - window.start).days
    return RollupResult(window, days[final:], days[:final], time.perf_counter() - started)


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


def views_per_hour(connection: psycopg.Connection, day: date) -> list[int]:
    """Return the views of each of the 24 hours, from the ledger: zeros if it was pruned."""
    hours: dict[int, int] = dict(connection.execute(SQL["views_per_hour"], {"day": day}).fetchall())
    return [hours.get(hour, 0) for hour in range(24)]


def find_windows_to_roll_up(connection: psycopg.Connection, start: date, last: date) -> list[Window]:
    """Return the days from `start` to `last` that have flushes not rolled up yet, adjacent days as one window."""
    windows: list[Window] = []
    for (day,) in connection.execute(SQL["find_windows_to_roll_up"], {"start": start, "last": last}):
        if windows and windows[-1].end == day:
            windows[-1] = Window(windows[-1].start, day + ONE_DAY)
        else:
            windows.append(Window(day, day + ONE_DAY))
    return windows


def was_ever_rolled_up(connection: psycopg.Connection, day: date) -> bool:
    """Whether a day was ever rolled up."""
    return bool(fetch_one(connection, SQL["was_ever_rolled_up"], day=day)[0])
