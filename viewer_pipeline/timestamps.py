"""Moments as text, the same in JSON and logs."""

from __future__ import annotations

from datetime import UTC, datetime


def format_timestamp(moment: datetime | None = None) -> str:
    """Return a moment, by default now, in ISO 8601 with milliseconds and `Z`: `2026-11-24T08:30:00.123Z`."""
    moment = datetime.now(UTC) if moment is None else moment
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
