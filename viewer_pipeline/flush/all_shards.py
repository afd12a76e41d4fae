"""Work that concerns all shards of a cluster at once: its marker for adjustments, and settling before retention."""

from __future__ import annotations

from typing import NamedTuple

import psycopg

from viewer_pipeline.flush.cluster_store import as_cluster
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.shard_drain import Drain, begin_drain
from viewer_pipeline.text_formatting import pluralize


class AllSettled(NamedTuple):
    """The newest flush that all markers have passed; `obstacle`: why some have not, empty if all have."""

    last: LastFlush
    obstacle: str


def ensure_shard_markers(
    redis: RedisStore, ledger: Ledger, connection: psycopg.Connection, run_id: str
) -> tuple[LastFlush, Marker, RunNotes]:
    """Return the newest flush, and the marker of the home slot as if it were the one that is furthest (rule R6).

    Every shard has a marker of the same timeline then. Incidents are recorded.
    """
    with as_cluster(redis).on_one_connection(only_names=True) as nodes:
        drain, home = begin_drain(nodes, ledger, connection, FlushRequest(run_id))
    notes = drain.run_notes()
    record_incidents(connection, notes, run_id)
    furthest = home._replace(seq=drain.floor, timeline=drain.last.timeline)
    return drain.last, furthest, notes


def settle_all_shards(redis: RedisStore, ledger: Ledger, connection: psycopg.Connection, run_id: str) -> AllSettled:
    """Settle what the ledger holds of every shard, and advance each marker to the newest flush.

    Also the markers of shards that have no batch: retention may delete what lies before the lowest marker. A shard that
    does not answer is an obstacle. Raises the errors of a drain.
    """
    with as_cluster(redis).on_one_connection() as nodes:
        drain, _ = begin_drain(nodes, ledger, connection, FlushRequest(run_id))
        drain.read(dict.fromkeys(nodes.layout.shards, ()))
        record_incidents(connection, drain.run_notes(), run_id)
        obstacle = _advance(drain)
        broken = nodes.wait_until_shards_durable(drain.readings)
    return AllSettled(drain.last, obstacle or next(iter(broken.values()), ""))


def _advance(drain: Drain) -> str:
    """Advance the marker of each shard to the newest flush; return why some are not there."""
    if drain.excluded:
        return _obstacle(drain.excluded)
    end = drain.last
    behind = {
        shard: reading.marker
        for shard, reading in drain.readings.items()
        if reading.marker[:2] < (end.seq, end.batches)
    }
    batches = [end.end_of_shard(shard, marker.epoch) for shard, marker in behind.items()]
    settled = drain.redis.settle_shards(behind, batches)
    refused = dict.fromkeys(settled.refused, "another run settled it meanwhile")
    return _obstacle({**settled.unreached, **refused})


def _obstacle(shards: dict[int, str]) -> str:
    if not shards:
        return ""
    return f"{pluralize(len(shards), 'shard')} of the cluster cannot be settled now: {next(iter(shards.values()))}"
