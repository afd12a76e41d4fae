"""What only Redis can tell: where the marker stands, and counters that can never be counted. Read, never mended."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.ledger import LastFlush, last_flush
from viewer_pipeline.flush.ownership import find_refusal
from viewer_pipeline.flush.redis_store import Marker, RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.reconcile.journal import Difference, Journal
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.queries import named_queries

SQL = named_queries(__name__)

AT_ONCE = 10_000  # counters in memory
UNSETTLED_SECONDS = 60.0  # a flush is settled within a second, and that of a run that died by the next


def compare_marker(stores: Stores, journal: Journal) -> None:
    """Note a marker that is missing, ahead of the ledger, or left behind. It is read first: flushes may go on."""
    marker = stores.redis.marker()
    with stores.ledger.connect() as connection:
        last = last_flush(connection)
        refused = find_refusal(stores.redis, stores.ledger, connection)
        if said := str(refused or "") or _wrong(connection, marker, last):
            journal.add(Difference("marker", "", last.seq, marker.seq if marker else None, said))


def _wrong(connection: psycopg.Connection, marker: Marker | None, last: LastFlush) -> str | None:
    if marker is None:
        return "Redis has no marker: it was emptied or replaced" if last.seq else None
    if marker.seq > last.seq:
        return "the marker is ahead of the ledger: PostgreSQL was rolled back"
    row = connection.execute(SQL["oldest_unsettled"], {"seq": marker.seq, "batch": marker.batch}).fetchone()
    flushes, age = row or (0, None)
    if age is None or age < UNSETTLED_SECONDS:
        return None
    return f"{flushes} flushes are committed and not settled, the oldest for {age:.0f} s"


def compare_counters(redis: RedisStore, journal: Journal) -> None:
    """Note every counter whose value, type or id can never be counted."""
    for some in chunks(_swept(redis), AT_ONCE):
        for reject in aggregate(redis.read([list(some)])).rejects:
            said = f"{reject.reason}: {reject.value!r}" if reject.value else reject.reason
            journal.add(Difference("counter", reject.subject, None, None, said))


def _swept(redis: RedisStore) -> Iterator[bytes]:
    for some in redis.swept():
        yield from some
