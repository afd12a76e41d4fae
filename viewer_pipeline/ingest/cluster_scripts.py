"""The scripts of a worker in a Redis Cluster. Messages announce VODs: their counters are in other slots."""

from __future__ import annotations

from typing import Any

from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.subscriber_scripts import Part, SubscriberScripts
from viewer_pipeline.stores.redis import Script

ANNOUNCE = Script.load("flush/claim", "ingest/segment_part", "ingest/announce")


class ClusterScripts(SubscriberScripts):
    """Lease, cuts and announcements of one pipeline, all in the home slot of a cluster."""

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
        arguments: list[str | int] = [fencing_token, self._ledger, segment, number, len(parts), *ids]
        return list(self._run(ANNOUNCE, arguments, [self._names.subscriber, self._names.changed]))


def open_scripts(store: RedisStore, *, increment: bool) -> SubscriberScripts:
    """Return the scripts of a worker on a single Redis or on a cluster."""
    kind = ClusterScripts if isinstance(store, ClusterStore) else SubscriberScripts
    return kind(store, increment=increment)
