"""When the totals were up to date: the materializations of `view_counts`.

Runs report them, and the sensor while nothing is pending. So the asset stays fresh through a quiet night, and is stale
minutes after flushes have failed, hung, or are launched no more.
"""

import time
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from viewer_pipeline.settings import Settings

ASSET = "view_counts"
KEPT_METADATA = ("total_views", "total_vods")
MIN_INTERVALS, MIN_SECONDS = 4, 120  # so that the sensor ticks in time, and the policy is one that Dagster takes


def freshness_policy(settings: Settings) -> dg.FreshnessPolicy:
    """Return the policy: a warning after FRESHNESS_LIMIT_MS without a materialization, a failure after twice that."""
    limit = timedelta(seconds=_limit_seconds(settings))
    return dg.FreshnessPolicy.time_window(fail_window=2 * limit, warn_window=limit)


def report_up_to_date(instance: dg.DagsterInstance, settings: Settings, now: datetime) -> None:
    """Report a materialization without views, unless the latest one is recent. Call it while nothing is pending.

    `now`: the time of Redis.
    """
    event = instance.get_latest_materialization_event(dg.AssetKey(ASSET))
    if event and 0 <= time.time() - event.timestamp < _limit_seconds(settings) / 2:  # below 0: the clock was set back
        return
    materialization = event.asset_materialization if event else None
    before = materialization.metadata if materialization else {}
    metadata: dict[str, Any] = {
        "added_views": 0,
        "added_views_per_minute": 0.0,
        "counters": 0,
        "lag_seconds": 0.0,
        "pending_vods": 0,
        **{name: before[name] for name in KEPT_METADATA if name in before},
        "notes": "nothing was pending: the sensor has launched no run",
        "taken_at": dg.MetadataValue.timestamp(now),
    }
    instance.report_runless_asset_event(dg.AssetMaterialization(ASSET, metadata=metadata))


def _limit_seconds(settings: Settings) -> float:
    return max(settings.freshness_limit_seconds, MIN_INTERVALS * settings.sensor_interval_seconds, MIN_SECONDS)
