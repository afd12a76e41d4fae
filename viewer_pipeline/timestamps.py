"""Points in time and durations as text, the same in JSON, logs and messages."""

from __future__ import annotations

from datetime import UTC, datetime

UNITS = ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h"))  # below this many seconds: divisor and unit


def format_timestamp(moment: datetime | None = None) -> str:
    """Return a moment, by default now, in ISO 8601 with milliseconds and `Z`: `2026-11-24T08:30:00.123Z`."""
    moment = datetime.now(UTC) if moment is None else moment
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(moment: datetime) -> float:
    """Return the age of a moment; 0 for one in the future, by a clock that is ahead."""
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())


def format_duration(seconds: float) -> str:
    """Return a duration in one unit: `12 s`, `5 min`, `3 h`, `2 days`."""
    seconds = max(0.0, seconds)
    for limit, divisor, unit in UNITS:
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
