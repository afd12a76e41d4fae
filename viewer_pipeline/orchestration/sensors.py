"""The sensor: real-time flushes of what was announced."""

from datetime import UTC, datetime

import dagster as dg

from viewer_pipeline.orchestration import decorators
from viewer_pipeline.orchestration.jobs import blocking_run, flush_request, flush_views
from viewer_pipeline.orchestration.ops import FlushMode
from viewer_pipeline.orchestration.resources import RedisResource
from viewer_pipeline.settings import load_settings


@decorators.sensor(
    target=flush_views,
    minimum_interval_seconds=load_settings().sensor_interval_seconds,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def view_count_updates_sensor(
    context: dg.SensorEvaluationContext, redis: RedisResource
) -> dg.RunRequest | dg.SkipReason:
    """Flush the VODs that were announced since the last flush, every `BATCH_INTERVAL_MS`.

    Looks at the changed set in Redis, which the worker fills from pub/sub. Skips with the reason when nothing changed
    or a flush is at work already. Launches a sweep instead where the worker asks for one, because it may have missed
    announcements.
    """
    if wait := blocking_run(context.instance):
        return dg.SkipReason(wait)
    with redis.open() as store:
        asked = store.asked_sweep()
        changed, oldest = store.pending()
    if asked is not None:
        return flush_request(FlushMode.sweep, f"sensor: sweep asked for: {asked.partition(b' ')[2].decode()}")
    if not changed:
        return dg.SkipReason("no VOD was announced since the last flush")
    age = f", the oldest {max(0, (datetime.now(UTC) - oldest).total_seconds()):.0f} s ago" if oldest else ""
    return flush_request(FlushMode.changed, f"sensor: {changed} VODs announced{age}")
