"""The asset `daily_views`, its checks, and the job launched by its schedules."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import psycopg

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.history.daily_rollup import (
    Day,
    RollupResult,
    days_unequal_to_ledger,
    find_windows_to_roll_up,
    most_viewed_vods_of_day,
    roll_up,
    rolled_up_days,
    views_per_hour,
)
from viewer_pipeline.history.days import ONE_DAY, Window, start_of_day, today
from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.flush_metadata import TOP_VODS
from viewer_pipeline.orchestration.partitions import (
    DAYS,
    IN_ONE_RUN,
    TIMEZONE,
    find_days_before_partitions,
    first_checked_day,
    format_window,
    partition_window_of,
)
from viewer_pipeline.orchestration.run_trigger_tag import tag_run_with_trigger
from viewer_pipeline.orchestration.settings_resource import SettingsResource
from viewer_pipeline.orchestration.step_errors_and_cancellation import handle_errors_and_cancellation
from viewer_pipeline.orchestration.ui_metadata import round_seconds, to_asset_check_result, to_table_metadata
from viewer_pipeline.orchestration.view_counts_asset import GROUP, OWNERS, view_counts
from viewer_pipeline.orchestration.views_per_hour_chart import embed_hourly_svg_in_markdown
from viewer_pipeline.text_formatting import pluralize
from viewer_pipeline.time_formatting import format_timestamp

DAILY = "daily_views"
DAILY_TAGS = {"viewer/job": "daily", "dagster/max_runtime": "7200"}  # a day of 10 million entries takes minutes
EARLIER = "rolled up as well; restart Dagster's code server to see these days as partitions"
FINAL = "the ledger of this day was pruned: its rows are final and were not changed"

CHECKS = {
    "daily_equals_ledger": "The views of each day equal those of its flushes in the ledger. Only days with a ledger.",
    "closed_days_are_complete": "No closed day of the last week has flushes that came after it was rolled up.",
}


@dg.asset(
    name=DAILY,
    partitions_def=DAYS,
    backfill_policy=IN_ONE_RUN,
    deps=[view_counts],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres"},
    check_specs=[dg.AssetCheckSpec(name, asset=DAILY, description=text) for name, text in CHECKS.items()],
    # Yesterday is rolled up at 00:10, also if it had no views.
    freshness_policy=dg.FreshnessPolicy.cron("0 1 * * *", lower_bound_delta=timedelta(hours=24), timezone=TIMEZONE.key),
    metadata={"dagster/table_name": "viewer.daily_views"},
)
def daily_views(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
    """Views of each VOD on each day (of `HISTORY_TIMEZONE`), in the table `viewer.daily_views`, from the ledger.

    Materialize a day at any time, as often as you like: it is rolled up again, and the same ledger gives the same rows.
    A range of days is one run and one transaction. Views belong to the day on which their counter was read.
    Days whose ledger was pruned (`LEDGER_RETENTION_DAYS`) are final and are not changed.
    """
    tag_run_with_trigger(context)
    window, zone = partition_window_of(context), settings.history_timezone
    with handle_errors_and_cancellation(context), Ledger.of(settings).connect() as connection:
        result = _roll_up(context, connection, window, zone)
        for day in rolled_up_days(connection, window):
            _report(context, connection, result, day, zone)
        if earlier := [
            _roll_up(context, connection, days, zone) for days in find_days_before_partitions(connection, zone)
        ]:
            notes = f"{', '.join(format_window(done.window) for done in earlier)} {EARLIER}"
            context.add_asset_metadata({"days_before_first_partition": notes}, partition_key=window.start.isoformat())
        checks = [_daily_equals_ledger(connection, window), _closed_days_are_complete(connection, zone)]
    yield dg.MaterializeResult(check_results=[to_asset_check_result(DAILY, check) for check in checks])


def _roll_up(
    context: dg.AssetExecutionContext, connection: psycopg.Connection, window: Window, zone: ZoneInfo
) -> RollupResult:
    result = roll_up(connection, window, zone)
    days, final = len(result.rolled_up), len(result.final)
    context.log.info(event("days_rolled_up", days=days, final=final, window=format_window(window)))
    return result


def _report(
    context: dg.AssetExecutionContext,
    connection: psycopg.Connection,
    result: RollupResult,
    day: Day,
    zone: ZoneInfo,
) -> None:
    """Add the metadata of one day to its own materialization."""
    top = most_viewed_vods_of_day(connection, day.day, TOP_VODS)
    metadata: dict[str, Any] = {}
    if day.kept:
        chart = embed_hourly_svg_in_markdown(day.day, views_per_hour(connection, day, zone), zone.key)
        metadata["views_per_hour"] = dg.MetadataValue.md(chart)
    metadata |= {
        "daily_views": day.views,
        "daily_vods": day.vods,
        "top_vods": to_table_metadata({"vod_id": "string", "views": "int"}, top),
        **({"flushes": day.flushes} if day.kept else {}),
        **({"notes": notes} if (notes := _notes(day, zone)) else {}),
        "seconds": round_seconds(result.seconds),
    }
    context.add_asset_metadata(metadata, partition_key=day.day.isoformat())


def _notes(day: Day, zone: ZoneInfo) -> str:
    if not day.kept:
        return FINAL
    if day.starts_at != start_of_day(day.day, zone):  # docs/adr/0020
        return f"this day begins at {format_timestamp(day.starts_at)}: final days of another time zone end there"
    return ""


def _daily_equals_ledger(connection: psycopg.Connection, window: Window) -> CheckResult:
    unequal = days_unequal_to_ledger(connection, window)
    failing = [f"{day}: {pluralize(rolled, 'view')}, the ledger has {views}" for day, rolled, views in unequal]
    message = f"{pluralize(len(failing), 'day')} unequal to the ledger" if failing else "equal to the ledger"
    return CheckResult.of_rows("daily_equals_ledger", failing, message)


def _closed_days_are_complete(connection: psycopg.Connection, zone: ZoneInfo) -> CheckResult:
    day = today(zone)
    stale = find_windows_to_roll_up(connection, first_checked_day(day), day - ONE_DAY, zone)
    failing = [day.isoformat() for window in stale for day in window.days()]
    message = (
        f"{pluralize(len(failing), 'closed day')} with flushes not rolled up" if failing else "closed days are complete"
    )
    return CheckResult.of_rows("closed_days_are_complete", failing, message)


roll_up_days = dg.define_asset_job(
    "roll_up_days",
    selection=[daily_views],
    description="Roll up days of the ledger by VOD. Its schedules launch it for days with new flushes.",
    tags=DAILY_TAGS,
)
