"""The scripts of a worker in a Redis Cluster: its lease is in the home slot, the counters are in others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import redis

from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.subscriber_scripts import (
    FoldResult,
    LeaseLost,
    Part,
    SubscriberScripts,
    split_by_id_hash,
    split_into_parts,
)
from viewer_pipeline.layout import slot_of_shard
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.cluster_nodes import ScriptCall
from viewer_pipeline.stores.redis import Script, as_ours
from viewer_pipeline.text_formatting import pluralize

ANNOUNCE = Script.load("flush/claim", "ingest/segment_part", "ingest/announce")
FOLD_SHARD = Script.load("ingest/segment_part", "ingest/fold_shard")
FOLD_TRIES = 2  # with a new map of the slots at the second; then the worker receives messages before it tries again


class ClusterScripts(SubscriberScripts):
    """Lease, cuts and announcements of one pipeline in a cluster, where producers count."""

    _cut = Script.load("ingest/cluster_node", "ingest/cut")
    _lease = Script.load("flush/claim", "ingest/cluster_node", "ingest/lease")

    def _fold_part(
        self,
        fencing_token: str,
        segment: int,
        number: int,
        parts: list[Part],
        now_ms: int,  # noqa: ARG002 - the clock of Redis decides
    ) -> list[Any]:
        ids = [vod_id for vod_id, _ in parts[number - 1]]
        arguments: list[str | int] = [fencing_token, self._ledger, segment, number, len(parts), self._set_numbers(ids)]
        return list(self._run(ANNOUNCE, [*arguments, *ids], [self._names.subscriber, *self._changed_sets]))


@dataclass
class _Progress:
    """How far a segment is folded. It is kept until the next one, as a node that does not answer ends an attempt."""

    segment: int
    done: set[int] = field(default_factory=set)  # shards
    written: bool = False
    refused: dict[str, str] = field(default_factory=dict)


@dataclass
class _ShardViews:
    """The views of a segment for one shard, in parts that are written one after the other."""

    shard: int
    views: Counter[str]
    parts: list[Part]
    written: int = 0


class ClusterCountingScripts(ClusterScripts):
    """Lease, cuts and folds of one pipeline in a cluster, where messages carry the views."""

    def __init__(self, store: ClusterStore, *, increment: bool) -> None:
        super().__init__(store, increment=increment)
        self._cluster, self._progress = store, _Progress(0)

    def fold_segment(self, fencing_token: str, segment: int, views: Counter[str], now_ms: int) -> FoldResult:
        """Raise the counters, once per segment and shard; then mark the VODs changed, and record the segment as folded.

        Raises RedisUnavailable if a shard does not answer: another attempt continues. LeaseLost; what was written by
        then stays written, and no worker writes it again.
        """
        if self._progress.segment != segment:
            self._progress = _Progress(segment)
        progress = self._progress
        self._raise_counters(views, progress)
        raised = Counter({vod_id: count for vod_id, count in views.items() if vod_id not in progress.refused})
        super().fold_segment(fencing_token, segment, raised, now_ms)
        return FoldResult(progress.written, progress.refused)

    def _raise_counters(self, views: Counter[str], progress: _Progress) -> None:
        """Send each shard its parts one after the other, and all shards at once."""
        left = [shard for shard in self._by_shard(views) if shard.shard not in progress.done]
        unreached = dict[int, redis.RedisError]()
        while left:
            calls = [self._call(progress.segment, shard) for shard in left]
            replies = self._cluster.nodes.run_script_following(FOLD_SHARD, calls, FOLD_TRIES)
            for shard, reply in zip(left, replies, strict=True):
                if isinstance(reply, redis.RedisError):
                    unreached[shard.shard] = reply
                else:
                    self._note_reply(shard, reply, progress)
            left = [s for s in left if s.shard not in progress.done and s.shard not in unreached]
        if unreached:
            raise self._error_of(unreached)

    def _error_of(self, unreached: dict[int, redis.RedisError]) -> Exception:
        """Return the first error as ours, with the nodes of all these shards."""
        owners = self._cluster.nodes.map.owners()
        nodes = {f"{owner[0]}:{owner[1]}" for shard in unreached if (owner := owners[slot_of_shard(shard)])}
        at = f"{pluralize(len(unreached), 'slot')} of {', '.join(sorted(nodes)) or 'no node'}"
        return as_ours(next(iter(unreached.values())), self._cluster.url, at)

    @staticmethod
    def _note_reply(shard: _ShardViews, reply: list[Any], progress: _Progress) -> None:
        outcome, *rest = reply
        if outcome == -1:
            raise LeaseLost
        if outcome == -2:
            shard.parts, shard.written = split_by_id_hash(shard.views, rest[0]), 0
            return
        part = shard.parts[shard.written]
        progress.written |= outcome == 1
        progress.refused |= {part[at - 1][0]: str(error, "utf-8", "replace") for at, error in chunks(rest, 2)}
        shard.written += 1
        if shard.written == len(shard.parts):
            progress.done.add(shard.shard)

    def _by_shard(self, views: Counter[str]) -> list[_ShardViews]:
        by_shard, ids = dict[int, Counter[str]](), list(views)
        for vod_id, shard in zip(ids, self._cluster.layout.shards_of_ids(ids), strict=True):
            by_shard.setdefault(shard, Counter())[vod_id] = views[vod_id]
        return [_ShardViews(shard, of_shard, split_into_parts(of_shard)) for shard, of_shard in by_shard.items()]

    def _call(self, segment: int, shard: _ShardViews) -> ScriptCall:
        part = shard.parts[shard.written]
        keys = [self._cluster.layout.marker_key(shard.shard), *(self._prefix + vod_id for vod_id, _ in part)]
        counts = " ".join(str(count) for _, count in part)
        arguments: list[str | int] = [self._ledger, segment, shard.written + 1, len(shard.parts), counts]
        return ScriptCall(slot_of_shard(shard.shard), keys, arguments)


def open_scripts(store: RedisStore, *, increment: bool) -> SubscriberScripts:
    """Return the scripts of a worker on a single Redis or on a cluster."""
    if not isinstance(store, ClusterStore):
        return SubscriberScripts(store, increment=increment)
    return (ClusterCountingScripts if increment else ClusterScripts)(store, increment=increment)
