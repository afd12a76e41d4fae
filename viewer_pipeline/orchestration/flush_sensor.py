"""The sensor that flushes announced VODs."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import dagster as dg

from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.sweep_position import SweepPosition
from viewer_pipeline.flush.unannounced_counters import UnannouncedScan, parse_scan_cursor, scan_for_unannounced
from viewer_pipeline.orchestration.flush_job import describe_blocking_run, flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline.orchestration.materializations import report_up_to_date
from viewer_pipeline.orchestration.run_trigger_tag import build_run_request
from viewer_pipeline.orchestration.sensor_and_schedule_decorators import sensor
from viewer_pipeline.orchestration.settings_resource import LOADED, SettingsResource
from viewer_pipeline.orchestration.stream_partitions import ALL, NAMES, has_run_for_each_stream, stream_tags
from viewer_pipeline.settings import Settings
from viewer_pipeline.text_formatting import pluralize
from viewer_pipeline.time_formatting import format_age, format_duration, seconds_since

# The daemon looks every 5 s, and measures from a moment shortly after the last tick: with the interval itself, the tick
# that is due is missed by milliseconds, and comes 5 s late.
EARLY_SECONDS = 1
NOTHING = "no VOD was announced since the last flush"
BUSY = "each stream with pending views has a flush run that is queued or active"


@sensor(target=flush_views, minimum_interval_seconds=LOADED.sensor_interval_seconds - EARLY_SECONDS)
def view_count_updates_sensor(
    context: dg.SensorEvaluationContext, settings: SettingsResource
) -> dg.RunRequest | list[dg.RunRequest] | dg.SkipReason:
    """Flush what was announced since the last flush, and counters nobody announced, every `BATCH_INTERVAL_MS`.

    Reads the changed set in Redis, which the worker fills from pub/sub, and adds the counters with views that it finds
    among the next `SENSOR_SCAN_MAX_KEYS` keys. The cursor is that of SCAN. Skips if there are none, or while another
    flush run is queued or active. Launches a sweep instead if the worker requested one because it may have missed
    announcements, or if the last sweep did not come to its end. Every few minutes without anything pending, it reports
    that the totals are up to date. With `FLUSH_STREAMS`, each stream that has pending views gets a run of its own where
    the launcher of runs can use other machines.
    """
    for_each = has_run_for_each_stream(context.instance)
    if reason := describe_blocking_run(context.instance, streams=[ALL] if for_each else ()):
        return dg.SkipReason(reason)
    with Stores.open(settings) as stores:
        parts = stores.redis.of_each_part()
        if trigger := next(filter(None, map(_sweep_trigger, parts)), ""):
            return build_run_request(trigger, flush_run_config(FlushMode.sweep), stream_tags())
        budget = settings.sensor_scan_max_keys, settings.sensor_scan_max_seconds
        scan = scan_for_unannounced(stores.redis, parse_scan_cursor(context.cursor), *budget)
        added = stores.redis.announce(scan.vod_ids)
        context.update_cursor(str(scan.cursor))
        pending = {part.layout.stream.name: part.changed_set_size_and_oldest() for part in parts}
        if not any(changed for changed, _ in pending.values()):
            report_up_to_date(context.instance, settings, stores.redis.now())
            return dg.SkipReason(NOTHING + _describe_scan(scan, settings))
    if for_each:
        return _requests_of_streams(context.instance, pending) or dg.SkipReason(BUSY)
    oldest = [at for _, at in pending.values() if at]
    return _request(sum(changed for changed, _ in pending.values()), min(oldest, default=None), added, NAMES)


def _sweep_trigger(part: RedisStore) -> str:
    """Return why a sweep of a stream is due; empty if none is."""
    if (sweep := part.sweep_request()) is not None:
        return f"sensor: sweep requested: {sweep.partition(b' ')[2].decode()}"
    if position := SweepPosition.parse(part.sweep_position()):
        return f"sensor: a sweep ended after {position.share:.1%} of all keys"
    return ""


def _requests_of_streams(
    instance: dg.DagsterInstance, pending: Mapping[str, tuple[int, datetime | None]]
) -> list[dg.RunRequest]:
    """Return a request for each stream that has pending views and no run."""
    return [
        _request(changed, oldest, 0, [name])
        for name, (changed, oldest) in pending.items()
        if changed and not describe_blocking_run(instance, streams=[name])
    ]


def _request(changed: int, oldest: datetime | None, added: int, streams: Sequence[str]) -> dg.RunRequest:
    age = f", the oldest {format_age(seconds_since(oldest))}" if oldest else ""
    unannounced = f", {added} of them by a scan" if added else ""
    trigger = f"sensor: {pluralize(changed, 'VOD')} announced{unannounced}{age}"
    return build_run_request(trigger, flush_run_config(FlushMode.changed), stream_tags(streams))


def _describe_scan(scan: UnannouncedScan, settings: Settings) -> str:
    """Return, as an addition to a skip reason, what was scanned, and how long it takes until all keys are."""
    if not settings.sensor_scan_max_keys:
        return ""
    if scan.keys >= scan.all_keys:
        return f", and a scan of all keys ({scan.all_keys}) found no counter to flush"
    ticks = -(-scan.all_keys // scan.keys)
    duration = format_duration(ticks * settings.sensor_interval_seconds)
    scanned = f"a scan of {scan.keys} of {pluralize(scan.all_keys, 'key')} found no counter to flush"
    return f", and {scanned}; {pluralize(ticks, 'tick')} ({duration}) scan all"
