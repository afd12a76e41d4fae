"""A Redis Cluster of real servers on this machine, whose nodes a test kills, pauses, fails over and restarts.

The commands are those of `redis-cli --cluster`. Each method that changes the cluster waits until all nodes agree on it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
from redis import cluster as redis_cluster

from viewer_pipeline.stack.ports import LOOPBACK, PortReservations
from viewer_pipeline_tests.support.cluster_node import ClusterNode, NodeRecord
from viewer_pipeline_tests.support.servers import redis_binary
from viewer_pipeline_tests.support.waiting import wait_until

PRIMARIES = 3
SLOTS = 16384
BUS = 10000  # the bus has the port of the node and this; before Redis 7 no other
# Below the ports that Linux gives to outgoing connections (from 32768 on), so none takes that of a node that is down.
PORTS = range(10000, 32768 - BUS)
AGREE_SECONDS = 60
FAILOVER_SECONDS, FAILOVER_TRIES = 6, 5  # a server abandons a failover by command after 5 s
# Nodes that are starved of CPU must not seem dead; news spreads, and a dead node is noticed, within this time.
NODE_TIMEOUT_MS, QUICK_TIMEOUT_MS = 5000, 1000
ROLE_SETTINGS = {"slaveof", "replicaof"}  # what CONFIG GET shows, but CLUSTER REPLICATE sets
Layout = dict[int, tuple[int | None, tuple[str, ...]]]  # port -> port of its primary, slots


class RedisCluster:
    """Three primaries with a part of the slots each and, if `replicas` is 1, a replica of each.

    `append_only`: a node that was killed restarts with its data; else it restarts empty. `settings` are more options of
    the servers. `binary` is a redis-server or valkey-server, by default that of the other tests.
    """

    def __init__(
        self,
        home: Path,
        *,
        replicas: int = 1,
        append_only: bool = True,
        binary: Path | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        options: dict[str, object] = {
            "cluster-node-timeout": QUICK_TIMEOUT_MS,
            "cluster-require-full-coverage": "no",
            "cluster-allow-replica-migration": "no",  # a primary whose last slot migrates stays one
            "cluster-replica-validity-factor": 0,  # a replica may be promoted however old its data are
            "save": "",
            "appendonly": "yes" if append_only else "no",
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": 0,
            **(settings or {}),
        }
        binary = binary or redis_binary()
        self._ports = PortReservations()
        count = PRIMARIES * (1 + replicas)
        self.nodes = [
            ClusterNode(home, f"node{number}", self._reserve_port(), binary, options) for number in range(count)
        ]
        self._settings: list[dict[str, str]] = []
        self._clients: list[redis.RedisCluster] = []

    @property
    def seeds(self) -> list[str]:
        """Host and port of each node."""
        return [f"{LOOPBACK}:{node.port}" for node in self.nodes]

    @property
    def url(self) -> str:
        """URL with three seeds, which are the primaries unless a failover has changed that."""
        return "redis+cluster://" + ",".join(self.seeds[:PRIMARIES])

    def start(self) -> None:
        """Start the servers and form the cluster."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_until_ready()
        self._settings = [self._settings_of(node) for node in self.nodes]
        self._form()

    def stop(self) -> None:
        """Kill the servers."""
        self._close_clients()
        for node in self.nodes:
            node.kill()
        self._ports.release()

    def reset(self) -> None:
        """Make it as after the start: all nodes run, with the settings, roles and slots of the start, and are empty."""
        self._close_clients()
        had_ended = self._revive()
        for node in self.nodes:
            if node.replication()["role"] == "master":
                node.client.flushall()
        if had_ended or not self._is_as_formed():
            for node in self.nodes:
                node.command("CLUSTER", "RESET", "HARD")
            self._form()
        empty: Callable[[], bool] = lambda: not any(node.client.dbsize() for node in self.nodes)  # noqa: E731
        wait_until(empty, AGREE_SECONDS, "the replicas are empty, too")

    def node_of_slot(self, slot: int) -> ClusterNode:
        """Return the primary of a slot, as the nodes that respond know it."""
        records = self._responding()[0].records()
        return self._node_with(next(record for record in records if record.serves(slot)))

    def primaries(self) -> list[ClusterNode]:
        """Return the primaries that respond."""
        return [node for node in self._responding() if node.own_record().primary_id is None]

    def replica_of(self, primary: ClusterNode) -> ClusterNode:
        """Return the replica of a primary, which may be down."""
        records = self._responding()[0].records()
        (node_id,) = (record.node_id for record in records if record.port == primary.port)
        return self._node_with(next(record for record in records if record.primary_id == node_id))

    def cluster_client(self) -> redis.RedisCluster:
        """Return a client that follows redirections. `reset` and `stop` close it."""
        startup_node: Any = redis_cluster.ClusterNode
        seeds = [startup_node(LOOPBACK, node.port) for node in self.nodes]
        client = redis.RedisCluster(startup_nodes=seeds, protocol=2)
        self._clients.append(client)
        return client

    def counters(self, prefix: str) -> dict[str, int]:
        """Return the counters that any primary holds: id -> views."""
        client = self.cluster_client()
        keys: set[Any] = {key for node in self.primaries() for key in node.client.scan_iter(f"{prefix}*", 1000)}
        values: dict[Any, Any] = {key: client.get(key) for key in keys}
        return {key[len(prefix) :].decode(): int(value) for key, value in values.items() if value is not None}

    def key_count(self) -> int:
        """Return the number of keys of all primaries that respond."""
        return sum(int(node.client.dbsize()) for node in self.primaries())

    def kill(self, node: ClusterNode) -> None:
        """Kill a node (SIGKILL). Its replica is promoted after some 6 s, or by `wait_for_promotion`."""
        node.kill()

    def restart(self, node: ClusterNode, *, empty: bool = False) -> None:
        """Start a node that was killed, and wait until it is part of the cluster again.

        `empty`: without its data. It is a primary again, unless its replica was promoted in the meantime.
        """
        if empty:
            node.remove_data()
        node.launch()
        node.wait_until_ready()
        with self._quick_gossip():
            self._wait_until_agreed(lambda _: True, f"{node} is part of the cluster")

    def failover(self, primary: ClusterNode, *, force: bool = False) -> ClusterNode:
        """Promote the replica of a primary, which becomes its replica; return it.

        Without `force` nothing is lost: the primary stops writes until the replica has them all.
        """
        replica = self.replica_of(primary)
        options = ("FORCE",) if force else ()

        def is_promoted() -> bool:
            return replica.own_record().primary_id is None

        with self._quick_gossip():
            for _ in range(FAILOVER_TRIES):
                replica.command("CLUSTER", "FAILOVER", *options)
                with suppress(AssertionError):
                    wait_until(is_promoted, FAILOVER_SECONDS, f"{replica} is promoted")
                    break
            expected = (replica.port, ())
            self._wait_until_agreed(lambda layout: layout[primary.port] == expected, f"{replica} replaces {primary}")
        return replica

    def wait_for_promotion(self, primary: ClusterNode) -> ClusterNode:
        """Wait until the other primaries notice that a primary is down and its replica is promoted; return that."""
        replica = self.replica_of(primary)
        with self._quick_gossip():
            self._wait_until_agreed(lambda layout: layout[replica.port][0] is None, f"{replica} replaces {primary}")
        return replica

    def wait_until_replicated(self) -> None:
        """Wait until each replica has all that its primary has."""
        for primary in self.primaries():
            replica = self.replica_of(primary)
            wait_until(
                lambda replica=replica, primary=primary: (  # type: ignore[misc]  # it infers no lambda with defaults
                    replica.replication()["slave_repl_offset"] == primary.replication()["master_repl_offset"]
                ),
                AGREE_SECONDS,
                f"{replica} has all that {primary} has",
            )

    def _revive(self) -> bool:
        """Resume and start nodes, and restore the settings of all; return whether any had ended."""
        for node in self.nodes:
            if node.is_running and not node.is_responding:
                node.resume()
        ended = [node for node in self.nodes if not node.is_running]
        for node in ended:
            node.launch()
        for node in ended:
            node.wait_until_ready()
        for node, settings in zip(self.nodes, self._settings, strict=True):
            now = self._settings_of(node)
            for name in (name for name in settings if settings[name] != now[name]):
                node.client.config_set(name, settings[name])
        return bool(ended)

    def _form(self) -> None:
        """Make one cluster of servers that know no other."""
        for number, node in enumerate(self.nodes):
            node.client.config_set("cluster-node-timeout", QUICK_TIMEOUT_MS)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)  # else they must first resolve that all are equal
        for number, node in enumerate(self.nodes[:PRIMARIES]):
            node.command("CLUSTER", "ADDSLOTS", *self._slots_of(number))
        for number, node in enumerate(self.nodes):  # all meet all: half a second less than by gossip
            for other in self.nodes[number + 1 :]:
                node.command("CLUSTER", "MEET", LOOPBACK, other.port)
        for number, replica in enumerate(self.nodes[PRIMARIES:]):
            primary_id = self.nodes[number].own_record().node_id
            wait_until(
                lambda replica=replica, primary_id=primary_id: any(  # type: ignore[misc]  # as above
                    record.node_id == primary_id and not record.problems for record in replica.records()
                ),
                AGREE_SECONDS,
                f"{replica} knows its primary",
            )
            replica.command("CLUSTER", "REPLICATE", primary_id)
        with self._quick_gossip():
            self._wait_until_agreed(lambda layout: layout == self._layout_at_start(), "the cluster is formed")

    @contextmanager
    def _quick_gossip(self) -> Iterator[None]:
        """Let nodes exchange news, and notice that one is down, within a second."""
        try:
            for node in self._responding():
                node.client.config_set("cluster-node-timeout", QUICK_TIMEOUT_MS)
            yield
        finally:
            for node in self._responding():
                node.client.config_set("cluster-node-timeout", NODE_TIMEOUT_MS)

    def _wait_until_agreed(self, is_expected: Callable[[Layout], object], expected: str) -> None:
        """Wait until all nodes that respond know the same layout, it is the expected one, and replicas are in sync."""

        def is_agreed() -> bool:
            layout = self._agreed_layout()
            return layout is not None and bool(is_expected(layout))

        def is_ready() -> bool:
            nodes = self._responding()
            links = [node.replication().get("master_link_status", "up") for node in nodes]
            return is_agreed() and all(node.cluster_state() == "ok" for node in nodes) and set(links) == {"up"}

        wait_until(is_ready, AGREE_SECONDS, expected)

    def _agreed_layout(self) -> Layout | None:
        """Return the layout of all nodes that respond; None if they do not agree, or have problems."""
        nodes = self._responding()
        ports = {node.port for node in nodes}
        layouts = list[Layout]()
        for node in nodes:
            records = {record.node_id: record for record in node.records()}
            own = [record for record in records.values() if record.port in ports]
            if any(record.problems for record in own):
                return None
            layouts.append({record.port: (_port_of_primary(records, record), record.slots) for record in own})
        complete = all(layout == layouts[0] and layout.keys() == ports for layout in layouts)
        return layouts[0] if complete else None

    def _layout_at_start(self) -> Layout:
        layout: Layout = {}
        for number, node in enumerate(self.nodes):
            slots = self._slots_of(number)
            layout[node.port] = (
                (None, (f"{slots[0]}-{slots[-1]}",))
                if number < PRIMARIES
                else (
                    self.nodes[number - PRIMARIES].port,
                    (),
                )
            )
        return layout

    def _is_as_formed(self) -> bool:
        opened = any(node.own_record().open_slots for node in self.nodes)
        return not opened and self._agreed_layout() == self._layout_at_start()

    def _responding(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.is_responding]

    def _node_with(self, record: NodeRecord) -> ClusterNode:
        return next(node for node in self.nodes if node.port == record.port)

    def _reserve_port(self) -> int:
        """Reserve a port and that of the bus: other tests that run in parallel choose others."""
        while True:
            port = self._ports.reserve(random.choice(PORTS))
            if port in PORTS and self._ports.reserve(port + BUS) == port + BUS:
                return port

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()

    @staticmethod
    def _slots_of(number: int) -> range:
        return range(number * SLOTS // PRIMARIES, (number + 1) * SLOTS // PRIMARIES)

    @staticmethod
    def _settings_of(node: ClusterNode) -> dict[str, str]:
        return {
            str(name): str(value) for name, value in node.client.config_get("*").items() if name not in ROLE_SETTINGS
        }


def _port_of_primary(records: Mapping[str, NodeRecord], record: NodeRecord) -> int | None:
    primary = records.get(record.primary_id) if record.primary_id else None
    return primary.port if primary else None
