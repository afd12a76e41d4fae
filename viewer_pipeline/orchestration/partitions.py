"""Days (UTC), from HISTORY_START up to and including today."""

import warnings
from datetime import date

import dagster as dg

from viewer_pipeline.history.daily import ONE_DAY, Window
from viewer_pipeline.settings import load_settings

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

DAYS = dg.DailyPartitionsDefinition(load_settings().history_start.isoformat(), timezone="UTC", end_offset=1)

# A range of days in one run is what we want, beta or not. Here and not in pytest's settings: people would see it, too.
warnings.filterwarnings("ignore", "Parameter `backfill_policy`", dg.BetaWarning)
IN_ONE_RUN = dg.BackfillPolicy.single_run()


def window_of(context: dg.AssetExecutionContext) -> Window:
    """Return the days that a run is for."""
    start, end = context.partition_time_window
    return Window(start.date(), end.date())


def run_tags_of(window: Window) -> dict[str, str]:
    """Return the tags that make a run be for these days."""
    return {RANGE_START: window.start.isoformat(), RANGE_END: (window.end - ONE_DAY).isoformat()}


def format_window(window: Window) -> str:
    """Name the days."""
    last: date = window.end - ONE_DAY
    return f"{window.start}" if window.start == last else f"{window.start} to {last}"
