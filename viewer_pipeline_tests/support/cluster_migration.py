"""The migration of a slot of a Redis Cluster key by key, which a test may leave open for as long as it likes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.cluster_view import ObservedCluster

MIGRATE_MS = 20_000
MAX_KEYS = 1_000_000


class SlotMigration:
    """A slot that migrates from one primary to another. `RedisCluster.open_slot` makes and opens it.

    While it is open, the source has some keys of the slot and the target the others. The source redirects a command
    whose keys it has not (`ASK`). Of a command with keys of both, the source (before Redis 7: the target) replies
    `TRYAGAIN`.
    """

    def __init__(self, cluster: ObservedCluster, slot: int, target: ClusterNode) -> None:
        self._cluster = cluster
        self.slot = slot
        self.source = cluster.node_of_slot(slot)
        self.target = target

    def open(self) -> None:
        """Open it. To repeat that is harmless: a replica that was promoted meanwhile may not know of it."""
        self.target.command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.source.node_id())
        self.source.command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.target.node_id())

    def remaining_keys(self) -> list[bytes]:
        """Return the keys of the slot that the source has."""
        return list(self.source.command("CLUSTER", "GETKEYSINSLOT", self.slot, MAX_KEYS))

    def move(self, keys: Sequence[bytes | str], *, one_by_one: bool = True) -> None:
        """Move keys to the target, with one command for each or with one for all."""
        migrate: Any = self.source.client.migrate
        for part in [[key] for key in keys] if one_by_one else [list(keys)]:
            migrate(self.target.host, self.target.port, part, 0, MIGRATE_MS)

    def finish(self, *, one_by_one: bool = True) -> None:
        """Move the keys that remain, give the slot to the target, and wait until all nodes know."""
        if remaining := self.remaining_keys():
            self.move(remaining, one_by_one=one_by_one)
        target_id = self.target.node_id()
        for node in dict.fromkeys([self.target, self.source, *self._cluster.primaries()]):
            node.command("CLUSTER", "SETSLOT", self.slot, "NODE", target_id)
        self._cluster.wait_until_owner(self.slot, self.target)
