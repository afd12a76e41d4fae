"""The partitions of `daily_views`: days (UTC), from the first day of the history up to and including today.

The first day is read when the definitions load; it does not change while the ledger grows.
"""

import warnings

import dagster as dg

from viewer_pipeline.history.daily_rollup import ONE_DAY, Window
from viewer_pipeline.history.first_day import first_day_of_history
from viewer_pipeline.orchestration.settings_resource import LOADED

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

FIRST_DAY = first_day_of_history(LOADED)
DAYS = dg.DailyPartitionsDefinition(FIRST_DAY.isoformat(), timezone="UTC", end_offset=1)

# A range of days in one run needs this beta feature. Ignored here and not in pytest's settings: users would see it too.
warnings.filterwarnings("ignore", "Parameter `backfill_policy`", dg.BetaWarning)
IN_ONE_RUN = dg.BackfillPolicy.single_run()


def partition_window_of(context: dg.AssetExecutionContext) -> Window:
    """Return the days of a run."""
    start, end = context.partition_time_window
    return Window(start.date(), end.date())


def partition_range_tags(window: Window) -> dict[str, str]:
    """Return the tags that give a run these days."""
    return {RANGE_START: window.start.isoformat(), RANGE_END: (window.end - ONE_DAY).isoformat()}


def format_window(window: Window) -> str:
    """Return the day, or the first and the last day, as text."""
    last = window.end - ONE_DAY
    return f"{window.start}" if window.start == last else f"{window.start} to {last}"
