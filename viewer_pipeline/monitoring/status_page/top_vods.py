"""The most viewed VODs of today: the rollup of the day, and the flushes since."""

from __future__ import annotations

from datetime import date, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import psycopg

from viewer_pipeline.history.daily_rollup import most_viewed_vods_of_day
from viewer_pipeline.history.days import ONE_DAY, start_of_day, today
from viewer_pipeline.stores.named_queries import fetch_one, named_queries

SQL = named_queries(__name__)

MAX_VODS = 10
CONTENDERS = 100  # VODs of the rollup, and as many of the flushes since
MAX_NEW_COUNTERS = 10_000  # of flushes since the rollup, oldest first: bounds the read


class TopVods(NamedTuple):
    """The views of a day, and its most viewed VODs with their views.

    Every number is exact, of the flushes up to `through`; None where there are none. A VOD that
    is in neither of the CONTENDERS is not in `vods`.
    """

    day: date
    through: datetime | None
    vods: list[tuple[str, int]]


class TopVodsReader:
    """Reads the most viewed VODs, and only what changed: the rollup of the day, the flushes since. For one thread."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._rollup: tuple[date, datetime | None] | None = None
        self._rolled_up: dict[str, int] = {}
        self._last_seqs: list[int] = []
        self._last: TopVods | None = None

    def read(self, connection: psycopg.Connection) -> TopVods:
        """Read today's. A rollup of the day with the bounds of another zone is left out."""
        day = today(self._zone)
        bounds = {"starts_at": start_of_day(day, self._zone), "ends_at": start_of_day(day + ONE_DAY, self._zone)}
        row = connection.execute(SQL["rollup_of_day"], {"day": day, **bounds}).fetchone()
        rolled_at, rolled_through = row or (None, "{}")
        if (day, rolled_at) != self._rollup:
            self._rolled_up = dict(most_viewed_vods_of_day(connection, day, CONTENDERS)) if rolled_at else {}
            self._rollup, self._last = (day, rolled_at), None
        parameters = {"rolled_through": rolled_through, "max_counters": MAX_NEW_COUNTERS, **bounds}
        seqs, through = fetch_one(connection, SQL["flushes_since_rollup"], **parameters)
        if self._last is None or seqs != self._last_seqs:
            views = self._rolled_up | self._with_new(connection, day if rolled_at else None, seqs or [])
            top = sorted(views.items(), key=lambda item: (-item[1], item[0]))[:MAX_VODS]
            self._last_seqs, self._last = seqs, TopVods(day, through or rolled_at, top)
        return self._last

    def _with_new(self, connection: psycopg.Connection, rolled_up_day: date | None, seqs: list[int]) -> dict[str, int]:
        parameters = {"seqs": seqs, "day": rolled_up_day, "vod_ids": list(self._rolled_up), "limit": CONTENDERS}
        return {vod_id: int(views) for vod_id, views in connection.execute(SQL["views_with_new"], parameters)}
