"""How much is persisted in all, cheap enough for every run: the totals themselves may be millions of rows."""

from __future__ import annotations

from typing import NamedTuple

import psycopg

from viewer_pipeline.stores.named_queries import fetch_one, named_queries

SQL = named_queries(__name__)
COUNTED_VODS = 10_000  # above it, the number of VODs is PostgreSQL's estimate


class ViewTotals(NamedTuple):
    """Views persisted by this pipeline, and the number of VODs that have a total: an estimate above COUNTED_VODS."""

    views: int
    vods: int


def read_view_totals(connection: psycopg.Connection) -> ViewTotals:
    """Return the totals: of the days that are rolled up, and of the flushes since."""
    return ViewTotals(*fetch_one(connection, SQL["view_totals"], counted_vods=COUNTED_VODS))
