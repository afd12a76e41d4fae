"""The sensor that flushes announced VODs."""

import dagster as dg

from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.orchestration.flush_job import describe_blocking_run, flush_run_config, flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode
from viewer_pipeline.orchestration.run_trigger_tag import build_run_request
from viewer_pipeline.orchestration.sensor_and_schedule_decorators import sensor
from viewer_pipeline.orchestration.settings_resource import LOADED, SettingsResource
from viewer_pipeline.time_formatting import format_age, seconds_since

# The daemon looks every 5 s, and measures from a moment shortly after the last tick: with the interval itself, the tick
# that is due is missed by milliseconds, and comes 5 s late.
EARLY_SECONDS = 1


@sensor(target=flush_views, minimum_interval_seconds=LOADED.sensor_interval_seconds - EARLY_SECONDS)
def view_count_updates_sensor(
    context: dg.SensorEvaluationContext, settings: SettingsResource
) -> dg.RunRequest | dg.SkipReason:
    """Flush the VODs that were announced since the last flush, every `BATCH_INTERVAL_MS`.

    Reads the changed set in Redis, which the worker fills from pub/sub. Skips if no VOD was announced, or while another
    flush run is queued or active. Launches a sweep instead if the worker requested one because it may have missed
    announcements.
    """
    if reason := describe_blocking_run(context.instance):
        return dg.SkipReason(reason)
    with Stores.open(settings) as stores:
        sweep = stores.redis.sweep_request()
        changed, oldest = stores.redis.changed_set_size_and_oldest()
    if sweep is not None:
        trigger = f"sensor: sweep requested: {sweep.partition(b' ')[2].decode()}"
        return build_run_request(trigger, flush_run_config(FlushMode.sweep))
    if not changed:
        return dg.SkipReason("no VOD was announced since the last flush")
    age = f", the oldest {format_age(seconds_since(oldest))}" if oldest else ""
    return build_run_request(f"sensor: {changed} VODs announced{age}", flush_run_config(FlushMode.changed))
