"""The days into which a time zone divides the ledger: each flush belongs to exactly one of them.

Days before `from_day` are final, with the bounds of the zone in which they were rolled up. The days from it on divide
what the ledger still has. If the zone was changed, the first of them begins where the final days end (docs/adr/0020).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import psycopg

from viewer_pipeline.history.days import ONE_DAY, Window, day_of, start_of_day
from viewer_pipeline.stores.named_queries import fetch_one, named_queries

SQL = named_queries(__name__)


class DayBounds(NamedTuple):
    """Consecutive days, and when each begins and ends, in UTC."""

    days: list[date]
    starts: list[datetime]
    ends: list[datetime]

    def to_parameters(self) -> dict[str, Any]:
        """Return the parameters of a query over all of them: arrays, and their first and last moment."""
        return {**self._asdict(), "starts_at": self.starts[0], "ends_at": self.ends[-1]}


@dataclass(frozen=True)
class LedgerDays:
    """The days of a zone. The ledger is complete from `from_at` on, the start of `from_day`; None: all of it."""

    zone: ZoneInfo
    from_day: date | None
    from_at: datetime | None

    def unpruned(self, window: Window) -> Window:
        """Return the days of a window whose ledger is complete, maybe none."""
        start = window.start if self.from_day is None else max(window.start, self.from_day)
        return Window(min(start, window.end), window.end)

    def bounds(self, window: Window) -> DayBounds:
        """Return when each day of a window begins and ends."""
        edges = [self._start(window.start + ONE_DAY * number) for number in range((window.end - window.start).days + 1)]
        return DayBounds(window.days(), edges[:-1], edges[1:])

    def day_of(self, moment: datetime) -> date:
        """Return the day of a moment from which the ledger is complete."""
        day = day_of(moment, self.zone)
        return day if self.from_day is None else max(day, self.from_day)

    def _start(self, day: date) -> datetime:
        start = start_of_day(day, self.zone)
        if self.from_day is None or self.from_at is None:
            return start
        if day == self.from_day:
            return self.from_at
        return min(start, self.from_at) if day < self.from_day else max(start, self.from_at)


def read_ledger_days(connection: psycopg.Connection, zone: ZoneInfo) -> LedgerDays:
    """Return the days of a zone."""
    return LedgerDays(zone, *fetch_one(connection, SQL["kept_from"]))
