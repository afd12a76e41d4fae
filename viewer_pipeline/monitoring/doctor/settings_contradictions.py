"""Settings that have no effect: unknown names, and valid settings that contradict each other. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from croniter import croniter

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.settings import Settings
from viewer_pipeline.unknown_setting_names import UnknownVariable

RARE_SWEEP_SECONDS = 3600.0


def evaluate_settings(settings: Settings, unknown: Sequence[UnknownVariable]) -> CheckResult:
    """Evaluate settings in combination, and variables that are none; each setting alone is valid."""
    misspelled = [
        f"{variable.name} in {variable.place} is not a setting; {variable.meant} was probably meant"
        for variable in unknown
        if variable.meant
    ]
    faults = [*misspelled, *_contradictions(settings)]
    without_effect = {
        "parameters of REDIS_URL": settings.ignored_redis_parameters(),
        "names in .env": [variable.name for variable in unknown if not variable.meant],
    }
    notes = [f"{subject} without effect: {', '.join(names)}" for subject, names in without_effect.items() if names]
    if faults:
        remedy = "change them, or leave them if that is intended"
        return CheckResult("settings", "degraded", "; ".join([*faults, *notes]), remedy=remedy)
    return CheckResult("settings", "healthy", "; ".join(["all settings are valid", *notes]))


def _contradictions(settings: Settings) -> Iterator[str]:
    for name, parameters in settings.dropped_parameters().items():
        yield f"unknown parameters in {name.upper()} are dropped: {parameters}"
    interval, limit = settings.batch_interval_ms / 1000, settings.freshness_limit_seconds
    if limit < interval:
        yield f"/health turns unhealthy after {limit:g} s, and the sensor flushes every {interval:g} s"
    if settings.flush_max_counters is not None and settings.flush_max_counters < settings.batch_size:
        yield f"FLUSH_MAX_COUNTERS={settings.flush_max_counters} is below BATCH_SIZE={settings.batch_size}"
    if settings.parked_retention_days is not None and settings.target_table is None:
        yield "PARKED_RETENTION_DAYS is set without TARGET_TABLE, so no views are parked"
    times = croniter(settings.sweep_cron, 0)
    first = times.get_next(float)
    is_rare = times.get_next(float) - first > RARE_SWEEP_SECONDS
    if settings.pubsub_mode == "announce" and is_rare and not settings.sensor_scan_max_keys:
        crons = f"SWEEP_CRON={settings.sweep_cron}, SENSOR_SCAN_MAX_KEYS=0"
        yield f"a lost message delays its views until the next sweep, which is rare: {crons}"
