"""How far Redis is settled: retention deletes no flush beyond that."""

from __future__ import annotations

from typing import NamedTuple

import psycopg

from viewer_pipeline.flush.all_shards import settle_all_shards
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import read_own_marker
from viewer_pipeline.flush.stores import Stores


class RetentionPosition(NamedTuple):
    """The markers, one of each stream; `obstacle`: why nothing may be pruned now, empty if it may."""

    markers: list[Marker]
    obstacle: str = ""


def read_retention_position(
    stores: Stores, connection: psycopg.Connection, settling_run: str | None = None
) -> RetentionPosition:
    """Return the markers of the active streams. In a cluster, `settling_run` first advances all to the newest flush.

    Without it, the position is the one that settling would reach. Raises PipelineRefused, also if FLUSH_STREAMS is not
    the number of streams that the ledger has.
    """
    positions = [_of_stream(stream, connection, settling_run) for stream in stores.of_each_stream(connection)]
    markers = [marker for position in positions for marker in position.markers]
    return RetentionPosition(markers, next((each.obstacle for each in positions if each.obstacle), ""))


def _of_stream(stores: Stores, connection: psycopg.Connection, settling_run: str | None) -> RetentionPosition:
    marker = read_own_marker(stores.redis, stores.ledger, connection)
    if marker is None or not stores.redis.layout.cluster:
        return RetentionPosition([marker] if marker else [])
    last, obstacle = stores.ledger.last_flush(connection), ""
    if settling_run is not None:
        last, obstacle = settle_all_shards(stores.redis, stores.ledger, connection, settling_run)
    return RetentionPosition([marker._replace(seq=last.seq, batch=last.batches, of=last.batches)], obstacle)
