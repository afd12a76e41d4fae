"""The schedules: sweeps that find counters nobody announced, and days that are to be added up."""

from collections.abc import Sequence
from datetime import UTC, date

import dagster as dg

from viewer_pipeline.flush.precheck import look_for_counters
from viewer_pipeline.history.daily import ONE_DAY, Window, is_rolled_up, stale_days
from viewer_pipeline.orchestration import decorators
from viewer_pipeline.orchestration.daily import LOOK_BACK, roll_up_days
from viewer_pipeline.orchestration.jobs import blocking_run, flush_request, flush_views
from viewer_pipeline.orchestration.ops import FlushMode
from viewer_pipeline.orchestration.partitions import format_window, run_tags_of
from viewer_pipeline.orchestration.resources import PostgresResource, RedisResource, stores
from viewer_pipeline.settings import load_settings


@decorators.schedule(
    target=flush_views,
    cron_schedule=load_settings().sweep_cron,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def sweep_schedule(
    context: dg.ScheduleEvaluationContext, redis: RedisResource, postgres: PostgresResource
) -> dg.RunRequest | dg.SkipReason:
    """Flush all counters, announced or not, on `SWEEP_CRON`.

    Pub/sub may lose a message; a sweep finds the counter all the same. Skips with the reason when a bounded scan shows
    that no counter holds views, or when a flush is at work already.
    """
    if wait := blocking_run(context.instance):
        return dg.SkipReason(wait)
    with stores(redis, postgres) as both:
        look = look_for_counters(both)
    return flush_request(FlushMode.sweep, f"schedule: {look.said}") if look.work else dg.SkipReason(look.said)


@decorators.schedule(
    target=roll_up_days,
    cron_schedule="10 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def close_yesterday(
    context: dg.ScheduleEvaluationContext, postgres: PostgresResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Add yesterday up for good, at 00:10 UTC, with all stale days of the week before it; a day without views as well.

    Skips where yesterday is added up already and no flush came since.
    """
    yesterday = today_of(context) - ONE_DAY
    if yesterday < load_settings().history_start:
        return dg.SkipReason(f"{yesterday} is before HISTORY_START")
    if wait := blocking_run(context.instance, roll_up_days.name):
        return dg.SkipReason(wait)
    with postgres.ledger().connect() as connection:
        stale = stale_days(connection, first_of_week(yesterday), yesterday)
        if not stale and not is_rolled_up(connection, yesterday):
            stale = [Window(yesterday, yesterday + ONE_DAY)]
    return requests(stale, "closes") or dg.SkipReason(
        f"{yesterday} is closed: no flush of it came since it was added up"
    )


@decorators.schedule(
    target=roll_up_days,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def refresh_today(
    context: dg.ScheduleEvaluationContext, postgres: PostgresResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Add today up again, every quarter of an hour, and every day of the last week that got a late flush.

    Skips where no flush came since they were added up: a run for nothing would cost five seconds of CPU.
    """
    if wait := blocking_run(context.instance, roll_up_days.name):
        return dg.SkipReason(wait)
    today = today_of(context)
    with postgres.ledger().connect() as connection:
        stale = stale_days(connection, first_of_week(today), today)
    return requests(stale, "has new flushes") or dg.SkipReason("no flush came since the last week was added up")


def today_of(context: dg.ScheduleEvaluationContext) -> date:
    """Return the day (UTC) of a tick."""
    return context.scheduled_execution_time.astimezone(UTC).date()


def first_of_week(day: date) -> date:
    """Return the first day that schedules look at."""
    return max(load_settings().history_start, day - LOOK_BACK)


def requests(stale: Sequence[Window], what: str) -> list[dg.RunRequest]:
    """Return a request for each stretch of days."""
    return [
        dg.RunRequest(
            tags={**run_tags_of(window), "viewer/trigger": f"schedule: {format_window(window)} {what}"},
            run_config={"loggers": {"console": {"config": {}}}},
        )
        for window in stale
    ]
