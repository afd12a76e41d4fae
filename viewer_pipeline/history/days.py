"""Calendar days of a time zone, and the moments at which they begin. Pure.

A day lasts from its first moment to that of the next day: 23 or 25 hours if the clocks change on it. Where they are
set forward at midnight, the day begins with the change; where midnight comes twice, with the first. Dagster's daily
partitions have the same bounds.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

ONE_DAY = timedelta(days=1)


class Window(NamedTuple):
    """Days from `start` up to and not including `end`."""

    start: date
    end: date

    def days(self) -> list[date]:
        """Return each of them."""
        return [self.start + timedelta(days=number) for number in range((self.end - self.start).days)]


def start_of_day(day: date, zone: ZoneInfo) -> datetime:
    """Return the first moment of a day, in UTC."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def day_of(moment: datetime, zone: ZoneInfo) -> date:
    """Return the day of a moment."""
    return moment.astimezone(zone).date()


def today(zone: ZoneInfo) -> date:
    """Return the current day."""
    return day_of(datetime.now(UTC), zone)
