"""What the status page shows of PostgreSQL, in bounded reads on one connection."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import datetime
from threading import Timer
from typing import NamedTuple
from zoneinfo import ZoneInfo

import psycopg

from viewer_pipeline.flush.incidents import Incident, open_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import recent_flushes
from viewer_pipeline.flush.ledger_row_types import RecentFlush
from viewer_pipeline.flush.rejected_counts import RejectedCount, read_rejected_summary
from viewer_pipeline.monitoring.ledger_totals import LedgerTotalsReader
from viewer_pipeline.monitoring.status_page.buckets import BUCKET_SECONDS, last_buckets
from viewer_pipeline.monitoring.status_page.top_vods import TopVods, TopVodsReader
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.target.parked_views import ParkedByReason

SQL = named_queries(__name__)

MAX_FLUSHES = 60
MAX_BUCKET_FLUSHES = 20_000  # newest ones: bounds the read beside a ledger of many flushes
MAX_PARKED = 10_000
KEEP_SECONDS = 60.0  # the address may lead to another server by then, and nobody may look


class PostgresReading(NamedTuple):
    """One reading. `views_by_bucket`: of the last hours; `flushes`: newest first."""

    persisted: int  # views of all flushes ever
    flushes: list[RecentFlush]
    views_by_bucket: dict[int, int]
    top_vods: TopVods
    parked: list[ParkedByReason]  # of the first MAX_PARKED VODs
    rejected: list[RejectedCount]
    incidents: list[Incident]

    @property
    def is_parked_lower_bound(self) -> bool:
        """Whether more VODs may have parked views than were read."""
        return sum(row.vods for row in self.parked) >= MAX_PARKED

    @property
    def last_commit(self) -> datetime | None:
        """When the newest flush was committed."""
        return self.flushes[0].committed_at if self.flushes else None


class PostgresReader:
    """Reads on one connection; keeps what a later reading need not read again. For one thread at a time.

    A new connection costs PostgreSQL and the worker more than the reading, so it is kept for KEEP_SECONDS.
    """

    def __init__(self, ledger: Ledger, zone: ZoneInfo) -> None:
        self._closing = ExitStack()
        self._ledger = self._closing.enter_context(ledger.keeping_connections())
        self._totals = LedgerTotalsReader(ledger)
        self._top_vods = TopVodsReader(zone)
        self._timer: Timer | None = None

    def close(self) -> None:
        """Close the connection."""
        if timer := self._timer:
            timer.cancel()
        self._closing.close()

    def read(self) -> PostgresReading:
        """Read. Raises PostgresUnavailable, SchemaMissing."""
        with self._ledger.connect(any_server=True) as connection:
            reading = PostgresReading(
                persisted=sum(self._totals.add_new(connection).views.values()),
                flushes=recent_flushes(connection, MAX_FLUSHES),
                views_by_bucket=views_by_bucket(connection),
                top_vods=self._top_vods.read(connection),
                parked=first_parked_by_reason(connection),
                rejected=read_rejected_summary(connection).counts,
                incidents=open_incidents(connection),
            )
        if self._timer is None:
            self._timer = Timer(KEEP_SECONDS, self._close_connection)
            self._timer.daemon = True
            self._timer.start()
        return reading

    def _close_connection(self) -> None:
        """Close it, unless it is used now: that reading starts the next timer."""
        self._timer = None
        self._ledger.close_idle_connections()


def views_by_bucket(connection: psycopg.Connection) -> dict[int, int]:
    """Return the views of the last buckets, by the time at which their counters were read."""
    start = last_buckets(time.time())[0] * BUCKET_SECONDS
    parameters = {"seconds": BUCKET_SECONDS, "start": start, "limit": MAX_BUCKET_FLUSHES}
    return {bucket: int(views) for bucket, views in connection.execute(SQL["views_by_bucket"], parameters)}


def first_parked_by_reason(connection: psycopg.Connection) -> list[ParkedByReason]:
    """Return parked views by reason, most views first; of the first MAX_PARKED VODs alone."""
    rows = connection.execute(SQL["first_parked_by_reason"], {"limit": MAX_PARKED})
    return [ParkedByReason(*row) for row in rows]
