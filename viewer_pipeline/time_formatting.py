"""Points in time and durations as text, the same in JSON, logs and messages."""

from __future__ import annotations

from datetime import UTC, datetime

FUTURE_SECONDS = 60.0  # clocks of several machines differ by less; further in the future means that one was set
CLOCK_WAS_SET_BACK = "the clock of this machine or of the one that wrote it was set back"
UNITS = ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h"))  # below this many seconds: divisor and unit


def format_timestamp(moment: datetime | None = None) -> str:
    """Return a moment, by default now, in ISO 8601 with milliseconds and `Z`: `2026-11-24T08:30:00.123Z`."""
    moment = datetime.now(UTC) if moment is None else moment
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(moment: datetime) -> float:
    """Return the age of a moment, as `tolerate_clock_skew` does."""
    return tolerate_clock_skew((datetime.now(UTC) - moment).total_seconds())


def tolerate_clock_skew(age_seconds: float) -> float:
    """Return an age: 0 for a moment up to FUTURE_SECONDS in the future, negative for one further in the future."""
    return 0.0 if -FUTURE_SECONDS <= age_seconds < 0 else age_seconds


def round_age(age_seconds: float) -> float:
    """Return an age as JSON has it: in tenths of a second, as `tolerate_clock_skew` does."""
    return round(tolerate_clock_skew(age_seconds), 1)


def format_age(age_seconds: float) -> str:
    """Return `5 min ago`; for a negative age, `6 h in the future` and the reason."""
    if age_seconds < 0:
        return f"{format_duration(-age_seconds)} in the future: {CLOCK_WAS_SET_BACK}"
    return f"{format_duration(age_seconds)} ago"


def format_duration(seconds: float) -> str:
    """Return a duration in one unit: `12 s`, `5 min`, `3 h`, `2 days`."""
    for limit, divisor, unit in UNITS:
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
