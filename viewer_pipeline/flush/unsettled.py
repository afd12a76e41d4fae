"""What the ledger holds and Redis has not settled, as monitoring and `reconcile` report it. Writes nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import psycopg

from viewer_pipeline.flush.cluster_store import as_cluster
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import Divergence, compare_histories
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.stores.named_queries import fetch_one, named_queries

SQL = named_queries(__name__)

SAMPLE = 500  # shards of the last flush whose markers are read each time
FULL_SECONDS = 300.0  # after which all markers are read again: that takes 0.3 s


class Unsettled(NamedTuple):
    """Flushes that are committed and not settled, and the age of the oldest in seconds.

    `marker`: the marker; of a cluster, that of the shard that is furthest, among those that were read. `shards`: how
    many of them have such flushes; None on a single Redis. `divergence`: why runs are refused because of some of them.
    """

    marker: Marker | None
    flushes: int
    age_seconds: float | None
    shards: int | None = None
    divergence: Divergence | None = None


class UnsettledReader:
    """Reads it again and again. In a cluster, a sample each time, and what was behind before; sometimes all shards.

    Also what was found to be of another history (rule R20), until it is so no more.
    """

    def __init__(self) -> None:
        self._behind, self._diverged, self._all_due_at = set[int](), set[int](), 0.0

    def read(
        self, redis: RedisStore, connection: psycopg.Connection, marker: Marker | None, last: LastFlush
    ) -> Unsettled:
        """Compare the ledger with the markers; `marker` was read before `last`. Shards out of reach are left out."""
        if not redis.layout.cluster:
            seq, batch = marker[:2] if marker else (last.seq, last.batches)
            return Unsettled(marker, *fetch_one(connection, SQL["beyond_marker"], seq=seq, batch=batch))
        if time.monotonic() >= self._all_due_at:
            self._all_due_at = time.monotonic() + FULL_SECONDS
            return self._of_shards(redis, connection, redis.layout.shards)
        sample = connection.execute(
            SQL["shards_of_last_flush"],
            {"first": redis.layout.stream.first, "last": redis.layout.stream.last}
            | {"limit": SAMPLE, "offset": random.randrange(2**30)},  # noqa: S311 - a sample
        )
        known = self._behind | self._diverged
        return self._of_shards(redis, connection, known.union(shard for (shard,) in sample))

    def _of_shards(self, redis: RedisStore, connection: psycopg.Connection, shards: Iterable[int]) -> Unsettled:
        markers = as_cluster(redis).readable_markers(shards)
        flushes, age, self._behind = find_beyond_markers(connection, markers)
        divergence, _ = compare_histories(connection, markers)
        self._diverged = set(divergence.shards) if divergence else set()
        furthest = max(markers.values(), key=lambda marker: marker[:2], default=None)
        return Unsettled(furthest, flushes, age, len(self._behind), divergence)


def find_beyond_markers(
    connection: psycopg.Connection, markers: Mapping[int, Marker]
) -> tuple[int, float | None, set[int]]:
    """Return how many flushes have batches beyond the marker of a shard, the age of the oldest, and these shards."""
    flushes, age, behind = fetch_one(
        connection,
        SQL["beyond_markers_of_shards"],
        shards=list(markers),
        seqs=[marker.seq for marker in markers.values()],
        batches=[marker.batch for marker in markers.values()],
    )
    return flushes, age, set(behind or ())
