"""The partitions of `daily_views`: days of HISTORY_TIMEZONE, from the first of the history up to and including today.

The first day is read when the definitions load; it does not change while the ledger grows. If an older ledger is
restored meanwhile, its days are rolled up, but are no partitions until the definitions load again.
"""

import warnings
from collections.abc import Sequence
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import psycopg

from viewer_pipeline.history.daily_rollup import find_windows_to_roll_up
from viewer_pipeline.history.days import ONE_DAY, Window, today
from viewer_pipeline.history.first_day import first_day_of_history
from viewer_pipeline.orchestration.settings_resource import LOADED

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def days_from(first_day: date, zone: ZoneInfo) -> dg.DailyPartitionsDefinition:
    """Return the days of a zone, up to and including today."""
    return dg.DailyPartitionsDefinition(first_day.isoformat(), timezone=zone.key, end_offset=1)


TIMEZONE = LOADED.history_timezone
FIRST_DAY = first_day_of_history(LOADED)
DAYS = days_from(FIRST_DAY, TIMEZONE)

LATE_FLUSH_WINDOW = timedelta(days=7)  # a late flush within this time gets its day rolled up again

# A range of days in one run needs this beta feature. Ignored here and not in pytest's settings: users would see it too.
warnings.filterwarnings("ignore", "Parameter `backfill_policy`", dg.BetaWarning)
IN_ONE_RUN = dg.BackfillPolicy.single_run()


def partition_window_of(context: dg.AssetExecutionContext) -> Window:
    """Return the days of a run."""
    start, end = context.partition_time_window
    return Window(start.date(), end.date())


def has_partition(day: date) -> bool:
    """Whether a day is not before the first partition."""
    return day >= FIRST_DAY


def first_checked_day(day: date) -> date:
    """Return the first day whose late flushes are noticed on a day; without HISTORY_START also one before FIRST_DAY."""
    earliest = day - LATE_FLUSH_WINDOW
    return earliest if LOADED.history_start is None else max(FIRST_DAY, earliest)


def find_days_before_partitions(connection: psycopg.Connection, zone: ZoneInfo) -> list[Window]:
    """Return the days before FIRST_DAY that are to be rolled up, of a ledger restored since the definitions loaded."""
    start = first_checked_day(today(zone) - ONE_DAY)  # as close_yesterday
    return find_windows_to_roll_up(connection, start, FIRST_DAY - ONE_DAY, zone)


def windows_of_partitions(windows: Sequence[Window]) -> list[Window]:
    """Return windows that have partitions and whose runs roll up all these days.

    Every run rolls up stale days before FIRST_DAY as well, if need be that of FIRST_DAY alone.
    """
    known = [Window(max(window.start, FIRST_DAY), window.end) for window in windows if window.end > FIRST_DAY]
    return known or [Window(FIRST_DAY, FIRST_DAY + ONE_DAY)] if windows else []


def partition_range_tags(window: Window) -> dict[str, str]:
    """Return the tags that give a run these days."""
    return {RANGE_START: window.start.isoformat(), RANGE_END: (window.end - ONE_DAY).isoformat()}


def format_window(window: Window) -> str:
    """Return the day, or the first and the last day, as text."""
    last = window.end - ONE_DAY
    return f"{window.start}" if window.start == last else f"{window.start} to {last}"
