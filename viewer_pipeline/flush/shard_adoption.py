"""Adoption in a cluster: which shards another ledger has settled, and to which flush; each is adopted by itself."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import psycopg
import redis

from viewer_pipeline.errors import MarkerMoved
from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.ledger_identity import LedgerIdentity
from viewer_pipeline.flush.ledger_reads import pruned_through
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import is_same_ledger
from viewer_pipeline.flush.unsettled import find_beyond_markers
from viewer_pipeline.layout import slot_of_shard
from viewer_pipeline.stores.cluster_nodes import ScriptCall
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.stores.redis import Script, as_ours
from viewer_pipeline.streams import Stream
from viewer_pipeline.text_formatting import pluralize

SQL = named_queries(__name__)
ADOPT_SHARD = Script.load("flush/adopt_shard")


@dataclass(frozen=True)
class ShardPositions:
    """The markers of all shards that have one. `misfits`: of those, the ones whose flush this ledger does not contain.

    `behind`: of those that another ledger has settled, without misfits, the ones that have batches in this ledger
    beyond their marker, in `newer_flushes` flushes.
    """

    markers: dict[int, Marker]
    misfits: set[int]
    behind: set[int]
    newer_flushes: int

    @property
    def furthest(self) -> Marker | None:
        """The marker that is furthest."""
        return max(self.markers.values(), key=lambda marker: marker[:2], default=None)

    @property
    def ledgers(self) -> set[str]:
        """The ledgers that the markers belong to."""
        return {marker.ledger for marker in self.markers.values()}

    @property
    def misfit(self) -> str:
        """Why this ledger does not contain the flushes up to which Redis was settled; empty if it does."""
        if not self.misfits:
            return ""
        example = self.markers[min(self.misfits)]
        return (
            f"{pluralize(len(self.misfits), 'shard')} of Redis were settled up to a flush that this ledger does not"
            f" contain, such as flush {example.seq} ({example.flush_id or 'of unknown id'})"
        )


def read_shard_positions(
    store: ClusterStore, connection: psycopg.Connection, identity: LedgerIdentity, last: LastFlush
) -> ShardPositions:
    """Read the markers of all shards, and compare them with this ledger. Raises RedisUnavailable."""
    store.require_all_nodes()
    markers = {shard: marker for shard, marker in store.shard_markers().items() if marker is not None}
    misfits = _find_misfits(connection, markers, last, store.layout.stream)
    foreign = {shard for shard, marker in markers.items() if not is_same_ledger(marker.ledger, identity.key)}
    flushes, _, behind = find_beyond_markers(connection, {shard: markers[shard] for shard in foreign - misfits})
    return ShardPositions(markers, misfits, behind, flushes)


def _find_misfits(
    connection: psycopg.Connection, markers: dict[int, Marker], last: LastFlush, stream: Stream
) -> set[int]:
    """Return the shards whose marker has a flush that this ledger lacks, unless retention may have deleted it."""
    positions = {(marker.seq, marker.flush_id) for marker in markers.values() if marker.seq > stream.first}
    parameters = {"seqs": [seq for seq, _ in positions]}
    ids: dict[int, str] = dict(connection.execute(SQL["flush_ids"], parameters).fetchall())
    pruned = pruned_through(connection, stream)
    unknown = {
        (seq, flush_id)
        for seq, flush_id in positions
        if seq > last.seq or (ids[seq] != flush_id if seq in ids else seq > pruned)
    }
    ranges = {marker.missing_flushes for marker in markers.values() if any(marker.missing_flushes)}
    contradicted = {
        (after, through)
        for after, through in ranges
        if connection.execute(SQL["any_flush_between"], {"after": after, "through": through}).fetchone()
    }
    return {
        shard
        for shard, marker in markers.items()
        if (marker.seq, marker.flush_id) in unknown or marker.missing_flushes in contradicted
    }


def adopt_shards(
    store: ClusterStore, positions: ShardPositions, identity: LedgerIdentity, last: LastFlush, *, from_here: bool
) -> None:
    """Give the markers to this ledger. `from_here`: those with misfits, or behind, continue from its end.

    Raises MarkerMoved if a run has settled meanwhile, RedisUnavailable; repeat it then.
    """
    moved_to_end = positions.misfits | positions.behind if from_here else set()
    others = {shard for shard, marker in positions.markers.items() if marker.ledger != identity.key}
    shards = sorted(others | moved_to_end)
    calls = list[ScriptCall]()
    for shard in shards:
        marker = positions.markers[shard]
        at = (marker.seq, marker.batch, marker.epoch, marker.ledger)
        end = (last.seq, last.batches, str(last.flush_id or ""), uuid4().hex)
        arguments: list[str | int] = [identity.key, identity.place, *at, int(shard in moved_to_end), *end]
        calls.append(ScriptCall(slot_of_shard(shard), [store.layout.marker_key(shard)], arguments))
    for shard, reply in zip(shards, store.nodes.run_script_following(ADOPT_SHARD, calls), strict=True):
        if isinstance(reply, redis.RedisError):
            raise as_ours(reply, store.url) from reply
        if not reply:
            raise MarkerMoved(f"a run has settled shard {shard} meanwhile; stop all runs, and repeat this")
