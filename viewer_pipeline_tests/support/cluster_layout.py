"""Which nodes of a Redis Cluster are primaries, of which slots, and whether all nodes agree on that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from viewer_pipeline_tests.support.cluster_node import ClusterNode, NodeRecord

PRIMARIES = 3
SLOTS = 16384
Layout = dict[int, tuple[int | None, tuple[str, ...]]]  # port -> port of its primary, slots


def slots_at_start(number: int) -> range:
    """Return the slots that a primary has at the start."""
    return range(number * SLOTS // PRIMARIES, (number + 1) * SLOTS // PRIMARIES)


def layout_at_start(nodes: Sequence[ClusterNode]) -> Layout:
    """Return the layout of a new cluster: three primaries, then their replicas in the same order."""
    primaries, replicas = nodes[:PRIMARIES], nodes[PRIMARIES:]
    slots = [slots_at_start(number) for number in range(PRIMARIES)]
    layout: Layout = {
        node.port: (None, (f"{part[0]}-{part[-1]}",)) for node, part in zip(primaries, slots, strict=True)
    }
    return layout | {replica.port: (node.port, ()) for replica, node in zip(replicas, primaries, strict=False)}


def agreed_layout(nodes: Sequence[ClusterNode]) -> Layout | None:
    """Return the layout that all these nodes know; None if they differ, or some are not connected to all others.

    Slots that are being migrated belong to the node that they come from.
    """
    ports = {node.port for node in nodes}
    layouts = list[Layout]()
    for node in nodes:
        records = {record.node_id: record for record in node.records()}
        known = [record for record in records.values() if record.port in ports]
        if any(record.problems for record in known):
            return None
        layouts.append({record.port: (_port_of_primary(records, record), record.slots) for record in known})
    is_same = all(layout == layouts[0] and layout.keys() == ports for layout in layouts)
    return layouts[0] if is_same else None


def _port_of_primary(records: Mapping[str, NodeRecord], record: NodeRecord) -> int | None:
    primary = records.get(record.primary_id) if record.primary_id else None
    return primary.port if primary else None
