"""A ledger with flushes at chosen times, and functions of the history called on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger_reads import last_flush
from viewer_pipeline.flush.ledger_row_types import Batch, Flush
from viewer_pipeline.history.daily_rollup import RollupResult, roll_up
from viewer_pipeline.history.days import Window, start_of_day
from viewer_pipeline.streams import WHOLE
from viewer_pipeline_tests.support.world import World

ONE = timedelta(days=1)
UTC_DAYS = ZoneInfo("UTC")


def at(day: date, clock: str = "12:00:00") -> datetime:
    """Return a time (UTC) of a day."""
    return datetime.fromisoformat(f"{day}T{clock}+00:00")


class History:
    """A ledger with flushes at chosen times."""

    def __init__(self, world: World, zone: ZoneInfo = UTC_DAYS) -> None:
        self.world, self.zone = world, zone

    def flush(self, taken_at: datetime, views: dict[str, int], mode: str = "sweep") -> int:
        """Commit a flush whose counters were read at this time, two counters a batch. Return its number."""
        ledger, ids = self.world.stores.ledger, sorted(views)
        with ledger.connect() as connection:
            last = last_flush(connection, WHOLE)
            base = last.seq
            pairs = [ids[first : first + 2] for first in range(0, len(ids), 2)]
            batches = [
                Batch(base + 1, number, len(pairs), taken_at, pair, [views[vod_id] for vod_id in pair])
                for number, pair in enumerate(pairs, 1)
            ]
            new = Flush(base + 1, base, uuid4(), "run", mode, taken_at, batches, last.flush_id, timeline=last.timeline)
            assert ledger.commit(connection, new) is not None
        return base + 1

    def send_and_flush(self, taken_at: datetime, views: dict[str, int]) -> None:
        """Send views and flush them, as if their counters had been read at this time."""
        for vod_id, count in views.items():
            self.world.send(vod_id, count)
        snapshot = drain(self.world.stores, self.world.request(batch_size=100, flush_max_counters=100))
        snapshot = replace(snapshot, taken_at=taken_at)
        bulk_upsert(self.world.stores, snapshot, aggregate(snapshot.readings))

    def roll_up(self, start: date, end: date) -> RollupResult:
        """Roll days up, `end` not included."""
        with self.world.stores.ledger.connect() as connection:
            return roll_up(connection, Window(start, end), self.zone)

    def keep_ledger_from(self, day: date) -> None:
        """Make earlier days final, as pruning does, without deleting a flush."""
        start = start_of_day(day, self.zone)
        self.world.execute("UPDATE viewer.ledger_kept SET from_day = %s, from_at = %s", day, start)

    def daily(self) -> dict[tuple[date, str], int]:
        """Return the rows of daily_views."""
        rows = self.world.rows("SELECT day, vod_id, views FROM viewer.daily_views")
        return {(day, vod_id): views for day, vod_id, views in rows}

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function with a connection to the ledger."""
        with self.world.stores.ledger.connect() as connection:
            return function(connection, *arguments)
