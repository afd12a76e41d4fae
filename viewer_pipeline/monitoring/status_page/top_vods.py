"""The most viewed VODs of today: the rollup of the day, and the flushes since."""

from __future__ import annotations

from datetime import date, datetime
from typing import NamedTuple

import psycopg

from viewer_pipeline.history.daily_rollup import most_viewed_vods_of_day
from viewer_pipeline.stores.named_queries import fetch_one, named_queries

SQL = named_queries(__name__)

MAX_VODS = 10
CONTENDERS = 100  # VODs of the rollup, and as many of the flushes since
MAX_NEW_COUNTERS = 10_000  # of flushes since the rollup, oldest first: bounds the read


class TopVods(NamedTuple):
    """The views of a day (UTC), and its most viewed VODs with their views.

    Every number is exact, counted through the flush that was taken at `through`; None where there is none. A VOD that
    is in neither of the CONTENDERS is not in `vods`.
    """

    day: date
    through: datetime | None
    vods: list[tuple[str, int]]


class TopVodsReader:
    """Reads the most viewed VODs; those of the rollup again only when the day was rolled up again."""

    def __init__(self) -> None:
        self._rollup: tuple[date, datetime | None] | None = None
        self._rolled_up: dict[str, int] = {}

    def read(self, connection: psycopg.Connection) -> TopVods:
        """Read today's."""
        day, rolled_at, last_flush = fetch_one(connection, SQL["rollup_of_today"])
        if (day, rolled_at) != self._rollup:
            self._rolled_up = dict(most_viewed_vods_of_day(connection, day, CONTENDERS)) if rolled_at else {}
            self._rollup = day, rolled_at
        parameters = {"day": day, "last_flush": last_flush, "max_counters": MAX_NEW_COUNTERS}
        seqs, through = fetch_one(connection, SQL["flushes_since_rollup"], **parameters)
        views = dict(self._rolled_up)
        if seqs:
            known = {"seqs": seqs, "day": day, "vod_ids": list(views), "limit": CONTENDERS}
            views |= {vod_id: int(count) for vod_id, count in connection.execute(SQL["views_with_new"], known)}
        top = sorted(views.items(), key=lambda item: (-item[1], item[0]))[:MAX_VODS]
        return TopVods(day, through or rolled_at, top)
