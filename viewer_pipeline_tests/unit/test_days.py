"""Days of a time zone begin with their first moment there, and the partitions in Dagster have the same bounds."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest

from viewer_pipeline.history.days import ONE_DAY, Window, day_of, start_of_day, today
from viewer_pipeline.history.ledger_days import LedgerDays
from viewer_pipeline.orchestration.partitions import days_from

MOMENT = timedelta(microseconds=1)
LENGTHS = [
    ("UTC", "2026-03-29", 24),
    ("Europe/Berlin", "2026-03-29", 23),
    ("Europe/Berlin", "2026-10-25", 25),
    ("America/New_York", "2026-03-08", 23),
    ("America/New_York", "2026-11-01", 25),
    ("Asia/Kolkata", "2026-03-29", 24),
    ("Australia/Lord_Howe", "2026-04-05", 24.5),
    ("America/Santiago", "2026-09-06", 23),  # without a midnight
    ("America/Santiago", "2026-04-04", 25),  # of which the last hour comes twice
    ("Asia/Beirut", "2026-03-29", 23),  # without a midnight
    ("America/Havana", "2026-11-01", 25),  # with two midnights
]


@pytest.mark.parametrize(("name", "text", "hours"), LENGTHS)
def test_a_day_has_the_hours_of_its_zone(name: str, text: str, hours: float) -> None:
    """And each moment of it is of that date there."""
    zone, day = ZoneInfo(name), date.fromisoformat(text)
    start, end = start_of_day(day, zone), start_of_day(day + ONE_DAY, zone)
    assert (end - start) / timedelta(hours=1) == hours
    assert [day_of(moment, zone) for moment in (start, end - MOMENT)] == [day, day]
    assert [day_of(moment, zone) for moment in (start - MOMENT, end)] == [day - ONE_DAY, day + ONE_DAY]


def test_a_day_begins_with_its_first_moment_in_every_zone() -> None:
    """On all days of two years in which the clocks change."""
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        for number in range(730):
            day = date(2026, 1, 1) + ONE_DAY * number
            start = start_of_day(day, zone)
            assert day_of(start - MOMENT, zone) < day <= day_of(start, zone), (name, day)


@pytest.mark.parametrize(("name", "text", "hours"), LENGTHS)
def test_partitions_have_the_bounds_of_days(name: str, text: str, hours: float) -> None:
    """Key, window and the last key of the list, up to the first and the last moment of the day."""
    zone, day = ZoneInfo(name), date.fromisoformat(text)
    partitions = days_from(day - ONE_DAY * 3, zone)
    window = partitions.time_window_for_partition_key(day.isoformat())
    start, end = start_of_day(day, zone), start_of_day(day + ONE_DAY, zone)
    assert (window.start.astimezone(UTC), window.end.astimezone(UTC)) == (start, end)
    assert (window.start.date(), window.end.date()) == (day, day + ONE_DAY)
    assert (end - start) / timedelta(hours=1) == hours
    for moment, last in ((start - MOMENT, day - ONE_DAY), (start, day), (end - MOMENT, day), (end, day + ONE_DAY)):
        assert partitions.get_partition_keys(current_time=moment)[-1] == last.isoformat()


def test_today_is_that_of_the_zone() -> None:
    """Not that of UTC."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert day_of(noon, ZoneInfo("Pacific/Kiritimati")) == date(2026, 3, 2)
    assert day_of(noon, ZoneInfo("Etc/GMT+12")) == date(2026, 3, 1)
    assert today(ZoneInfo("Pacific/Kiritimati")) > today(ZoneInfo("Etc/GMT+12"))


@pytest.mark.parametrize("before", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12", "Asia/Kolkata", "America/New_York"])
@pytest.mark.parametrize("after", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12", "Asia/Kolkata", "Europe/Berlin"])
def test_days_after_the_final_ones_leave_no_gap(before: str, after: str) -> None:
    """Whatever the zones: each moment is of one day, and those before the ledger begins are of final days."""
    from_day = date(2026, 3, 1)
    from_at = start_of_day(from_day, ZoneInfo(before))
    days = LedgerDays(ZoneInfo(after), from_day, from_at)
    bounds = days.bounds(Window(from_day - ONE_DAY * 3, from_day + ONE_DAY * 4))
    assert bounds.ends[:-1] == bounds.starts[1:]
    assert sorted(bounds.starts) == bounds.starts
    assert bounds.starts[bounds.days.index(from_day)] == from_at
    assert bounds.ends[-1] == start_of_day(from_day + ONE_DAY * 4, ZoneInfo(after))
    assert days.unpruned(Window(from_day - ONE_DAY * 3, from_day + ONE_DAY)) == Window(from_day, from_day + ONE_DAY)
    for moment in (from_at, from_at + timedelta(hours=30), from_at + timedelta(hours=60)):
        (day,) = [
            day
            for day, start, end in zip(bounds.days, bounds.starts, bounds.ends, strict=True)
            if start <= moment < end
        ]
        assert day >= from_day
        assert days.day_of(moment) <= day
