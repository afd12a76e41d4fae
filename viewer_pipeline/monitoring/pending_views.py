"""How many views are pending: the counters of announced VODs, as many as a bounded read sums up."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

from viewer_pipeline.flush.counter_validation import count_error
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.time_formatting import seconds_since

MAX_READ = 5_000  # counters: limits the cost of a reading to about a millisecond of Redis


class PendingViews(NamedTuple):
    """`views`: of the `read` VODs that were announced first; `age`: of the oldest announcement, in seconds.

    `streams`: how many announced VODs each stream has, by the name of its part.
    """

    vods: int
    read: int
    views: int
    age: float
    streams: Mapping[str, int] = MappingProxyType({})

    @property
    def is_lower_bound(self) -> bool:
        """Whether there are more announced VODs than were read."""
        return self.read < self.vods


def read_pending_views(store: RedisStore) -> PendingViews:
    """Read the changed sets of all streams, and the first MAX_READ counters. Raises RedisUnavailable."""
    parts = store.of_each_part()
    sets = [part.changed_set_size_and_oldest() for part in parts]
    ids = chain.from_iterable(part.changed_ids_oldest_first(MAX_READ // len(parts)) for part in parts)
    read = views = 0
    for page in ids:
        values = store.values(page) if page else []
        read += len(values)
        views += sum(int(value) for value in values if value is not None and not count_error(value))
    oldest = min((at for _, at in sets if at), default=None)
    streams = {part.layout.stream.name: vods for part, (vods, _) in zip(parts, sets, strict=True)}
    return PendingViews(sum(streams.values()), read, views, seconds_since(oldest) if oldest else 0.0, streams)
