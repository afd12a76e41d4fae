"""The schedules of the pipeline: sweeps, and days to roll up."""

from collections.abc import Sequence

import dagster as dg

from viewer_pipeline.errors import HistoryTimezoneChanged
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.sweep_need import evaluate_sweep_need
from viewer_pipeline.history.daily_rollup import find_windows_to_roll_up, was_ever_rolled_up
from viewer_pipeline.history.days import ONE_DAY, Window, day_of
from viewer_pipeline.orchestration.daily_views_asset import roll_up_days
from viewer_pipeline.orchestration.flush_job import describe_blocking_run, flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline.orchestration.partitions import (
    TIMEZONE,
    first_checked_day,
    format_window,
    has_partition,
    partition_range_tags,
    windows_of_partitions,
)
from viewer_pipeline.orchestration.run_trigger_tag import build_scheduled_run_request
from viewer_pipeline.orchestration.sensor_and_schedule_decorators import schedule
from viewer_pipeline.orchestration.settings_resource import LOADED, SettingsResource
from viewer_pipeline.orchestration.stream_partitions import ALL, has_run_for_each_stream, stream_tags


@schedule(target=flush_views, cron_schedule=LOADED.sweep_cron)
def sweep_schedule(context: dg.ScheduleEvaluationContext, settings: SettingsResource) -> dg.RunRequest | dg.SkipReason:
    """Flush all counters, announced or not, on `SWEEP_CRON`.

    Pub/sub may lose a message; a sweep still finds the counter. Skips if a bounded scan finds no counter with views, or
    while another flush run is queued or active.
    """
    streams = [ALL] if has_run_for_each_stream(context.instance) else ()
    if reason := describe_blocking_run(context.instance, streams=streams):
        return dg.SkipReason(reason)
    with Stores.open(settings) as stores:
        pending = evaluate_sweep_need(stores)
    if not pending.is_needed:
        return dg.SkipReason(pending.reason)
    return build_scheduled_run_request(pending.reason, flush_run_config(FlushMode.sweep), stream_tags())


@schedule(target=roll_up_days, cron_schedule="10 0 * * *", execution_timezone=TIMEZONE.key)
def close_yesterday(
    context: dg.ScheduleEvaluationContext, settings: SettingsResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Roll up yesterday at 00:10 (`HISTORY_TIMEZONE`), also if it had no views, and every stale day of the week before.

    Skips if yesterday is rolled up already and no flush came since, or while days of another time zone need a backfill.
    """
    zone = settings.history_timezone
    yesterday = day_of(context.scheduled_execution_time, zone) - ONE_DAY
    if reason := describe_blocking_run(context.instance, roll_up_days.name):
        return dg.SkipReason(reason)
    with Ledger.of(settings).connect() as connection:
        try:
            stale = find_windows_to_roll_up(connection, first_checked_day(yesterday), yesterday, zone)
        except HistoryTimezoneChanged as error:
            return skip_until_backfill(error)
        if not stale and has_partition(yesterday) and not was_ever_rolled_up(connection, yesterday):
            stale = [Window(yesterday, yesterday + ONE_DAY)]
    if stale:
        return _run_requests(stale, "closes")
    if not has_partition(yesterday):
        return dg.SkipReason(f"{yesterday} is before the first day of daily_views")
    return dg.SkipReason(f"{yesterday} is closed: no flush of it came since it was rolled up")


@schedule(target=roll_up_days, cron_schedule="*/15 * * * *")
def refresh_today(
    context: dg.ScheduleEvaluationContext, settings: SettingsResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Roll up today again, every quarter of an hour, and every day of the last week that got a late flush.

    Skips if no flush came since they were rolled up (an idle run would cost three seconds of CPU), or while days of
    another time zone need a backfill.
    """
    if reason := describe_blocking_run(context.instance, roll_up_days.name):
        return dg.SkipReason(reason)
    today = day_of(context.scheduled_execution_time, settings.history_timezone)
    with Ledger.of(settings).connect() as connection:
        try:
            stale = find_windows_to_roll_up(connection, first_checked_day(today), today, settings.history_timezone)
        except HistoryTimezoneChanged as error:
            return skip_until_backfill(error)
    return _run_requests(stale, "has new flushes") or dg.SkipReason("no flush came since the last week was rolled up")


def skip_until_backfill(error: HistoryTimezoneChanged) -> dg.SkipReason:
    """Return the reason to skip while days have the bounds of another time zone."""
    return dg.SkipReason(f"{error}: {error.remedy}")


def _run_requests(stale: Sequence[Window], reason: str) -> list[dg.RunRequest]:
    """Return one request for each range of consecutive days; days before the first partition are part of the first."""
    windows = windows_of_partitions(stale)
    named = [Window(min(stale[0].start, windows[0].start), windows[0].end), *windows[1:]] if windows else []
    return [
        build_scheduled_run_request(f"{format_window(days)} {reason}", tags=partition_range_tags(window))
        for days, window in zip(named, windows, strict=True)
    ]
