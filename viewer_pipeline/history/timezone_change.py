"""Days that were rolled up with other bounds than HISTORY_TIMEZONE gives them, until a backfill.

Beside days of the new zone they would overlap, or leave a gap. So nothing is rolled up or pruned until one transaction
rolls all of them up again. Bounds differ after the setting was changed, or the rules of the zone itself.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import NamedTuple

import psycopg

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import HistoryTimezoneChanged
from viewer_pipeline.history.days import ONE_DAY, Window
from viewer_pipeline.history.ledger_days import LedgerDays
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.text_formatting import pluralize

SQL = named_queries(__name__)


class _Row(NamedTuple):
    day: date
    starts_at: datetime
    ends_at: datetime
    time_zone: str


class TimezoneChange(NamedTuple):
    """Days with other bounds: their labels and zones, and the days of HISTORY_TIMEZONE that have their flushes."""

    days: list[date]
    zones: list[str]
    zone: str
    to_backfill: Window

    def message(self) -> str:
        """Return what differs, in words."""
        days = f"{pluralize(len(self.days), 'day')} from {self.days[0]} to {self.days[-1]}"
        if self.zones == [self.zone]:
            return f"{days}: the rules of HISTORY_TIMEZONE={self.zone} have changed since"
        return f"{days} in {', '.join(self.zones)}, and HISTORY_TIMEZONE is {self.zone}"

    def remedy(self) -> str:
        """Return what to do."""
        backfill = f"run `{command_to_type(f'backfill {self.to_backfill.start}')}`"
        if self.zones == [self.zone]:
            return backfill
        return f"{backfill}, or set HISTORY_TIMEZONE={self.zones[0]} again"

    def is_covered_by(self, window: Window) -> bool:
        """Whether these days contain all flushes of the days that differ."""
        return window.start <= self.to_backfill.start and self.to_backfill.end <= window.end


def find_timezone_change(connection: psycopg.Connection, ledger_days: LedgerDays) -> TimezoneChange | None:
    """Return the days with other bounds, None if there are none. Final days have the zone that they had."""
    rows = [_Row(*row) for row in connection.execute(SQL["unpruned_rollups"])]
    if not rows:
        return None
    bounds = ledger_days.bounds(Window(rows[0].day, rows[-1].day + ONE_DAY))
    expected = dict(zip(bounds.days, zip(bounds.starts, bounds.ends, strict=True), strict=True))
    changed = [row for row in rows if (row.starts_at, row.ends_at) != expected[row.day]]
    if not changed:
        return None
    starts_at, ends_at = min(row.starts_at for row in changed), max(row.ends_at for row in changed)
    first, last = fetch_one(connection, SQL["first_and_last_flush"], starts_at=starts_at, ends_at=ends_at)
    day = changed[0].day
    window = Window(ledger_days.day_of(first), ledger_days.day_of(last) + ONE_DAY) if first else Window(day, day)
    zones = sorted({row.time_zone for row in changed})
    return TimezoneChange([row.day for row in changed], zones, ledger_days.zone.key, window)


def require_unchanged_timezone(connection: psycopg.Connection, ledger_days: LedgerDays) -> None:
    """Raise HistoryTimezoneChanged if days with views have other bounds."""
    change = find_timezone_change(connection, ledger_days)
    if change is not None and change.to_backfill.days():
        raise HistoryTimezoneChanged(change.message(), change.remedy())


def delete_days_of_other_timezone(connection: psycopg.Connection, ledger_days: LedgerDays, window: Window) -> None:
    """Delete days with other bounds, in the transaction that rolls up this window.

    Raises HistoryTimezoneChanged if their views would then be in no day.
    """
    change = find_timezone_change(connection, ledger_days)
    if change is None:
        return
    if change.to_backfill.days() and not change.is_covered_by(window):
        raise HistoryTimezoneChanged(change.message(), change.remedy())
    for statement in ("delete_daily_views", "delete_rollups"):
        connection.execute(SQL[statement], {"days": change.days})
