"""How many views are pending: the counters of announced VODs, as many as a bounded read sums up."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from viewer_pipeline.flush.counter_validation import count_error
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.time_formatting import seconds_since

MAX_CHUNKS = 5  # of 1000 counters: limits the cost of a reading to about a millisecond of Redis


class PendingViews(NamedTuple):
    """`views`: of the `read` VODs that were announced first; `age`: of the oldest announcement, in seconds."""

    vods: int
    read: int
    views: int
    age: float

    @property
    def is_lower_bound(self) -> bool:
        """Whether there are more announced VODs than were read."""
        return self.read < self.vods


def read_pending_views(store: RedisStore) -> PendingViews:
    """Read the changed set and the first MAX_CHUNKS of its counters. Raises RedisUnavailable."""
    vods, oldest = store.changed_set_size_and_oldest()
    read = views = 0
    for ids in islice(store.changed_ids_oldest_first(), MAX_CHUNKS):
        values = store.values(ids) if ids else []
        read += len(values)
        views += sum(int(value) for value in values if value is not None and not count_error(value))
    return PendingViews(vods, read, views, seconds_since(oldest) if oldest else 0.0)
