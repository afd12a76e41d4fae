"""How many VODs and views are pending in Redis, and since when."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from viewer_pipeline.flush.counters import is_positive_integer
from viewer_pipeline.flush.redis_store import RedisStore

MAX_CHUNKS = 5  # of 1000 counters: limits the cost of a scrape to about a millisecond of Redis


class Pending(NamedTuple):
    """`views`: of the `read` VODs that were announced first; `age`: of the oldest announcement, in seconds."""

    vods: int
    read: int
    views: int
    age: float


def read_pending(store: RedisStore) -> Pending:
    """Read the changed set and the first MAX_CHUNKS of its counters. Raises RedisUnavailable."""
    vods, oldest = store.pending()
    read = views = 0
    for ids in islice(store.changed(), MAX_CHUNKS):
        values = store.values(ids) if ids else []
        read += len(values)
        views += sum(int(value) for value in values if value and is_positive_integer(value))
    age = max(0.0, (datetime.now(UTC) - oldest).total_seconds()) if oldest else 0.0
    return Pending(vods, read, views, age)
