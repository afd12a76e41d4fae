"""What is pending in Redis, as figures: how many VODs, how many views, since when."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from viewer_pipeline.flush.counters import is_positive_integer
from viewer_pipeline.flush.redis_store import RedisStore

READ_CHUNKS = 5  # of 1000 counters: bounds what a scrape costs Redis to about a millisecond


class Pending(NamedTuple):
    """`views` are those of the `read` VODs that were announced first; `age` in seconds, of the first of all."""

    vods: int
    read: int
    views: int
    age: float


def read_pending(store: RedisStore) -> Pending:
    """Read the changed set and the first READ_CHUNKS of its counters. Raises RedisUnavailable."""
    vods, oldest = store.pending()
    read = views = 0
    for ids in islice(store.changed(), READ_CHUNKS):
        if ids:
            read += len(ids)
            views += sum(int(value) for value in store.values(ids) if value and is_positive_integer(value))
    age = max(0.0, (datetime.now(UTC) - oldest).total_seconds()) if oldest else 0.0
    return Pending(vods, read, views, age)
