"""The schedule: sweeps that find counters nobody announced."""

import dagster as dg

from viewer_pipeline.counting.look import look_for_counters
from viewer_pipeline.orchestration.jobs import flush_request, flush_views, why_wait
from viewer_pipeline.orchestration.ops import FlushMode
from viewer_pipeline.orchestration.resources import PostgresResource, RedisResource, stores
from viewer_pipeline.settings import load_settings


@dg.schedule(
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
    if wait := why_wait(context.instance):
        return dg.SkipReason(wait)
    with stores(redis, postgres) as both:
        look = look_for_counters(both)
    return flush_request(FlushMode.sweep, f"schedule: {look.said}") if look.work else dg.SkipReason(look.said)
