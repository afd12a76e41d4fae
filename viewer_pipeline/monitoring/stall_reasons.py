"""Why nothing was persisted recently, as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from viewer_pipeline.checks import CheckResult, worst_status
from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.flush.ledger_row_types import RecentFlush
from viewer_pipeline.monitoring.dagster_rules import (
    COORDINATOR,
    LAUNCHERS,
    NEVER_RAN,
    daemon_check_name,
    failing_daemons,
)
from viewer_pipeline.monitoring.pending_views import PendingViews
from viewer_pipeline.settings import Settings
from viewer_pipeline.text_formatting import pluralize
from viewer_pipeline.time_formatting import format_age, seconds_since

RECENT_SECONDS = 60.0  # a younger flush: nothing has stalled

Results = Mapping[str, CheckResult]
Label = Literal["idle", "waiting", "stalled", "never ran"]


def stall_reasons(flushes: Sequence[RecentFlush], pending_vods: int, checks: Results, settings: Settings) -> list[str]:
    """Return the reasons, obstacles first; empty if a flush was committed recently. `flushes`: newest first."""
    age = seconds_since(flushes[0].committed_at) if flushes else None
    if age is not None and 0 <= age < RECENT_SECONDS:
        return []
    obstacles = _obstacles(checks)
    reasons = [*obstacles, *_skips(checks), *_missing_input(pending_vods, checks, settings)]
    if pending_vods and not obstacles:
        interval = settings.sensor_interval_seconds
        reasons.append(f"{pluralize(pending_vods, 'VOD')} pending until the sensor ticks, every {interval} s")
    since = "so far" if age is None else f"since the last flush, {format_age(age)}"
    return [f"nothing was persisted {since}:", *reasons]


def label_of_reasons(pending: PendingViews | None, checks: Results) -> Label:
    """Return `idle` or `waiting` where flushes are possible, and nothing is pending or only what arrived recently.

    `never ran`: nothing is wrong but that Dagster was not started yet. `pending`: None where Redis cannot be read.
    """
    if worst_status(checks.values()) == "unhealthy":
        return "stalled"
    if _never_ran(checks):
        return "never ran"
    if _obstacles(checks):
        return "stalled"
    if pending is None or not pending.vods:
        return "idle"
    return "stalled" if pending.age > RECENT_SECONDS else "waiting"


def _never_ran(checks: Results) -> bool:
    return checks[daemon_check_name(COORDINATOR)].message == NEVER_RAN


def _obstacles(checks: Results) -> list[str]:
    """Return what prevents flushes from being launched or from succeeding."""
    if _never_ran(checks):
        return [f"{NEVER_RAN}: {checks[daemon_check_name(COORDINATOR)].remedy}"]
    others = [checks[name] for name in ("sensor", "sweep", "flush_runs")]
    if (streams := checks.get("streams")) and streams.status == "unhealthy":
        others.insert(0, streams)
    daemons = failing_daemons(checks, (COORDINATOR, *LAUNCHERS))
    failing = [f"Dagster's daemon {name}".rstrip() + f": {message}" for name, message in daemons]
    return [*failing, *(check.message for check in others if not check.passed)]


def _skips(checks: Results) -> list[str]:
    """Return the skip reasons of the last ticks of sensor and sweep, unless they tick no more."""
    return [
        f"the {name} skipped {format_age(details['seconds_since_tick'])}: {details['skip_reason']}"
        for name in ("sensor", "sweep")
        if checks[name].passed and (details := checks[name].details).get("skip_reason")
    ]


def _missing_input(pending_vods: int, checks: Results, settings: Settings) -> list[str]:
    """Return whether anything was received at all. A worker knows its own subscription, a command asks Redis."""
    subscriber = checks["subscriber"].details
    reasons = []
    if "state" in subscriber:
        if not checks["subscriber"].passed:
            reasons.append(f"this worker: {checks['subscriber'].message}")
    elif not subscriber.get("holder"):
        reasons.append(f"no worker listens to {settings.pubsub_channel}: start `{command_to_type('worker')}`")
    if not pending_vods:
        silent = subscriber.get("seconds_since_message")
        last = "no message was received yet" if silent is None else f"the last message came {format_age(silent)}"
        reasons.append(f"{_unannounced_counters(checks)}: no VOD is announced, and {last}")
    return reasons


def _unannounced_counters(checks: Results) -> str:
    if any("seconds_since_tick" in checks[name].details for name in ("sensor", "sweep")):
        return "nothing is pending"
    doctor = command_to_type("doctor")
    return f"only a sweep reads counters that no message announced, and none has run yet (`{doctor}` counts them)"
