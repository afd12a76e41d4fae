"""What the nodes of a Redis Cluster know of it, and waiting until all know the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from viewer_pipeline_tests.support.cluster_layout import Layout, agreed_layout
from viewer_pipeline_tests.support.cluster_node import ClusterNode, NodeRecord
from viewer_pipeline_tests.support.waiting import wait_until

AGREE_SECONDS = 60
# Nodes that are starved of CPU must not seem dead; news spreads, and a dead node is noticed, within this time.
NODE_TIMEOUT_MS, QUICK_TIMEOUT_MS = 5000, 1000


class ObservedCluster:
    """The nodes of a cluster. Those that are down or paused have no say."""

    def __init__(self, nodes: list[ClusterNode]) -> None:
        self.nodes = nodes

    def node_of_slot(self, slot: int) -> ClusterNode:
        """Return the primary of a slot, as the nodes that respond know it."""
        records = self.responding()[0].records()
        return self._node_with(next(record for record in records if record.serves(slot)))

    def primaries(self) -> list[ClusterNode]:
        """Return the primaries that respond."""
        return [node for node in self.responding() if node.own_record().primary_id is None]

    def replica_of(self, primary: ClusterNode) -> ClusterNode:
        """Return the replica of a primary, which may be down."""
        records = self.responding()[0].records()
        (node_id,) = (record.node_id for record in records if record.port == primary.port)
        return self._node_with(next(record for record in records if record.primary_id == node_id))

    def key_count(self) -> int:
        """Return the number of keys of all primaries that respond."""
        return sum(int(node.client.dbsize()) for node in self.primaries())

    def wait_until_agreed(
        self, is_expected: Callable[[Layout], object], expected: str, *, in_sync: bool = True
    ) -> None:
        """Wait until all nodes that respond know the same layout, it is the expected one, and replicas are connected.

        `in_sync=False`: the replicas need not be connected to their primaries.
        """

        def is_agreed() -> bool:
            layout = agreed_layout(self.responding())
            return layout is not None and bool(is_expected(layout))

        def is_ready() -> bool:
            nodes = self.responding()
            links = {node.replication().get("master_link_status", "up") for node in nodes}
            is_connected = links == {"up"} or not in_sync
            return is_agreed() and is_connected and all(node.cluster_state() == "ok" for node in nodes)

        with self.quick_gossip():
            wait_until(is_ready, AGREE_SECONDS, expected)

    def wait_until_owner(self, slot: int, node: ClusterNode) -> None:
        """Wait until all nodes that respond know this primary of a slot."""
        is_owner: Callable[[Layout], bool] = lambda _: self.node_of_slot(slot) is node  # noqa: E731
        self.wait_until_agreed(is_owner, f"slot {slot} is at {node}", in_sync=False)

    def wait_until_replicated(self) -> None:
        """Wait until each replica has all that its primary has. Both respond, else they do not count."""
        ports = {node.port: node for node in self.responding()}

        def is_replicated(node: ClusterNode) -> bool:
            state = node.replication()
            primary = ports.get(state.get("master_port", 0))
            return primary is None or state["slave_repl_offset"] == primary.replication()["master_repl_offset"]

        wait_until(lambda: all(map(is_replicated, ports.values())), AGREE_SECONDS, "the replicas have all writes")

    @contextmanager
    def quick_gossip(self) -> Iterator[None]:
        """Let nodes exchange news, and notice that one is down, within a second."""
        try:
            for node in self.responding():
                node.client.config_set("cluster-node-timeout", QUICK_TIMEOUT_MS)
            yield
        finally:
            for node in self.responding():
                node.client.config_set("cluster-node-timeout", NODE_TIMEOUT_MS)

    def responding(self) -> list[ClusterNode]:
        """Return the nodes that run and are not paused."""
        return [node for node in self.nodes if node.is_responding]

    def _node_with(self, record: NodeRecord) -> ClusterNode:
        return next(node for node in self.nodes if node.port == record.port)
