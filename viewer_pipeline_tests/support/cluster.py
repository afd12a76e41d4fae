"""A Redis Cluster of real servers on this machine, whose nodes a test kills, pauses, fails over and restarts.

The commands are those of `redis-cli --cluster`. Each method that changes the cluster waits until all nodes agree on it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
from redis import cluster as redis_cluster

from viewer_pipeline.stack.ports import PortReservations
from viewer_pipeline_tests.support.cluster_access import ClusterAccess
from viewer_pipeline_tests.support.cluster_layout import (
    PRIMARIES,
    Layout,
    agreed_layout,
    layout_at_start,
    slots_at_start,
)
from viewer_pipeline_tests.support.cluster_migration import SlotMigration
from viewer_pipeline_tests.support.cluster_node import START_SECONDS, ClusterNode
from viewer_pipeline_tests.support.cluster_view import AGREE_SECONDS, NODE_TIMEOUT_MS, ObservedCluster
from viewer_pipeline_tests.support.servers import redis_binary
from viewer_pipeline_tests.support.waiting import wait_until

BUS = 10000  # the bus has the port of the node and this; before Redis 7 no other
# Below the ports that Linux gives to outgoing connections (from 32768 on), so none takes that of a node that is down.
PORTS = range(10000, 32768 - BUS)
FAILOVER_SECONDS, FAILOVER_TRIES = 6, 5  # a server abandons a failover by command after 5 s
ELECTION_SECONDS = 4.1  # four times the quick timeout, at least 4 s
NO_PASSWORD = "of no server"


class RedisCluster(ObservedCluster):
    """Three primaries with a part of the slots each and, if `replicas` is 1, a replica of each.

    `append_only`: a node that was killed restarts with its data; else it restarts empty. `settings` are more options of
    the servers. `binary` is a redis-server or valkey-server, by default that of the other tests. `access`: another
    address, or TLS. `home` is a directory for their data and logs.
    """

    def __init__(
        self,
        home: Path,
        *,
        replicas: int = 1,
        append_only: bool = True,
        binary: Path | None = None,
        settings: Mapping[str, object] | None = None,
        access: ClusterAccess = ClusterAccess(),  # noqa: B008 - frozen
    ) -> None:
        options: dict[str, object] = {
            "cluster-node-timeout": NODE_TIMEOUT_MS,
            "cluster-require-full-coverage": "no",
            "cluster-allow-replica-migration": "no",  # a primary whose last slot migrates stays one
            "cluster-replica-validity-factor": 0,  # a replica may be promoted however old its data are
            "save": "",
            "appendonly": "yes" if append_only else "no",
            "appendfsync": "no",  # else a write that was replied to may not be in the file yet, while a sync takes long
            "rdb-del-sync-files": "yes",  # without append_only, a replica keeps no file that it would load later
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": 0,
            **(settings or {}),
        }
        binary = binary or redis_binary()
        self._home, self._copies, self.access = home, count(), access
        self._ports = PortReservations()
        names = [f"node{number}" for number in range(PRIMARIES * (1 + replicas))]
        nodes = [
            ClusterNode(home, name, self._reserve_port(), binary, settings=options, access=access) for name in names
        ]
        super().__init__(nodes)
        self._settings: list[dict[str, str]] = []
        self._clients: list[redis.RedisCluster] = []

    @property
    def seeds(self) -> list[str]:
        """Host and port of each node."""
        return [self.access.seed(node.port) for node in self.nodes]

    @property
    def url(self) -> str:
        """URL with three seeds, which are the primaries unless a failover has changed that."""
        return self.access.url(node.port for node in self.nodes[:PRIMARIES])

    def start(self) -> None:
        """Start the servers and form the cluster."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_until_ready()
        self._settings = [node.settings() for node in self.nodes]
        self._form()

    def stop(self) -> None:
        """Kill the servers."""
        self._close_clients()
        for node in self.nodes:
            node.kill()
        self._ports.release()

    def reset(self) -> None:
        """Make it as after the start: all nodes run, with roles, slots, settings and users as then, and are empty."""
        self._close_clients()
        for node in self.nodes:
            if node.is_running and not node.is_responding:
                node.resume()
        if not self._is_as_at_start():
            self._restart_nodes()
            self._form()
        for node, settings in zip(self.nodes, self._settings, strict=True):
            node.restore(settings)
        for node in self.nodes[:PRIMARIES]:
            node.client.flushall()
        empty: Callable[[], bool] = lambda: not any(node.client.dbsize() for node in self.nodes)  # noqa: E731
        wait_until(empty, AGREE_SECONDS, "the replicas are empty, too")

    def cluster_client(self) -> redis.RedisCluster:
        """Return a client that follows redirections. `reset` and `stop` close it."""
        startup_node: Any = redis_cluster.ClusterNode
        seeds = [startup_node(node.host, node.port) for node in self.responding()]
        client = redis.RedisCluster(startup_nodes=seeds, protocol=2, **self.access.client_options())
        self._clients.append(client)
        return client

    def counters(self, prefix: str) -> dict[str, int]:
        """Return the counters that any primary holds: id -> views."""
        counters = dict[str, int]()
        for node in self.primaries():
            keys: list[Any] = list(dict.fromkeys(node.client.scan_iter(f"{prefix}*", 1000)))
            for key, value in zip(keys, self._values(node, keys), strict=True):
                if value is not None:
                    counters[key[len(prefix) :].decode("utf-8", "backslashreplace")] = int(value)
        return counters

    def _values(self, node: ClusterNode, keys: Sequence[Any]) -> list[Any]:
        """Return what a node has for these keys, also in slots that migrate; what has left it meanwhile is followed."""
        pipe: Any = node.client.pipeline(transaction=False)
        with pipe:
            for key in keys:
                pipe.execute_command("ASKING")
                pipe.get(key)
            values: list[Any] = pipe.execute(raise_on_error=False)[1::2]
        if not any(isinstance(value, redis.ResponseError) for value in values):
            return values
        client: Any = self.cluster_client()
        return [client.get(key) for key in keys]

    def kill(self, node: ClusterNode) -> None:
        """Kill a node (SIGKILL). Its replica is promoted after some 8 s; `wait_for_promotion` hastens that."""
        node.kill()

    def restart(self, node: ClusterNode, *, empty: bool = False, copy: Path | None = None) -> None:
        """Start a node that was killed, with its data, and wait until it is part of the cluster again.

        `empty`: without its data. `copy`: with those that `copy_data` returned. It is a primary again, and its replica
        copies its data, unless the replica was promoted in the meantime.
        """
        if empty or copy is not None:
            node.replace_data(copy)
        node.launch()
        node.wait_until_ready()
        self.wait_until_agreed(lambda _: True, f"{node} is part of the cluster")

    def copy_data(self, node: ClusterNode) -> Path:
        """Copy the data that a node has now; return the copy, a directory."""
        copy = self._home / f"copy{next(self._copies)}"
        node.copy_data(copy)
        return copy

    def empty(self, primary: ClusterNode) -> None:
        """Delete all keys of a primary (FLUSHALL), and so of its replica."""
        primary.client.flushall()

    def open_slot(self, slot: int, target: ClusterNode) -> SlotMigration:
        """Begin to migrate a slot key by key: no key is moved yet."""
        migration = SlotMigration(self, slot, target)
        migration.open()
        return migration

    def migrate_slot(self, slot: int, target: ClusterNode, *, one_by_one: bool = True) -> None:
        """Migrate a slot key by key, with one command for each key or with one for all."""
        self.open_slot(slot, target).finish(one_by_one=one_by_one)

    def migrate_slot_atomically(self, slot: int, target: ClusterNode) -> None:
        """Migrate a slot as a whole (Valkey 9 and newer). Skips the test if the servers cannot."""
        self.migrate_slots_atomically(range(slot, slot + 1), target)

    def migrate_slots_atomically(self, slots: range, target: ClusterNode) -> None:
        """Migrate slots of one node as a whole (Valkey 9 and newer). Skips the test if the servers cannot."""
        words = ("SLOTSRANGE", slots[0], slots[-1], "NODE", target.node_id())
        try:
            self.node_of_slot(slots[0]).command("CLUSTER", "MIGRATESLOTS", *words)
        except redis.ResponseError as error:
            if "unknown subcommand" not in str(error).lower():
                raise
            pytest.skip("this server cannot migrate slots atomically (Valkey 9 and newer can)")
        self.wait_until_owner(slots[-1], target)

    def failover(self, primary: ClusterNode, *, force: bool = False) -> ClusterNode:
        """Promote the replica of a primary, which becomes its replica; return it.

        Without `force` nothing is lost: the primary stops writes until the replica has them all.
        """
        replica = self.replica_of(primary)
        self._wait_until_electable(replica)

        def is_promoted() -> bool:
            return replica.own_record().primary_id is None

        with self.quick_gossip():
            for _ in range(FAILOVER_TRIES):
                replica.command("CLUSTER", "FAILOVER", *(["FORCE"] if force else []))
                with suppress(AssertionError):
                    wait_until(is_promoted, FAILOVER_SECONDS, f"{replica} is promoted")
                    break
            replica.promoted_at = time.monotonic()
            expected = (replica.port, ())
            self.wait_until_agreed(lambda layout: layout[primary.port] == expected, f"{replica} replaces {primary}")
        return replica

    def wait_for_promotion(self, primary: ClusterNode) -> ClusterNode:
        """Wait until the other primaries notice that a primary is down and its replica is promoted; return that."""
        replica = self.replica_of(primary)
        self._wait_until_electable(replica)
        is_promoted: Callable[[Layout], bool] = lambda layout: layout[replica.port][0] is None  # noqa: E731
        self.wait_until_agreed(is_promoted, f"{replica} replaces {primary}", in_sync=False)
        replica.promoted_at = time.monotonic()
        return replica

    def stop_replication(self, primary: ClusterNode) -> ClusterNode:
        """Let the replica of a primary miss all further writes; return it. Once promoted, it has its older data.

        `failover` with `force`, or `kill` and `wait_for_promotion` promote it.
        """
        replica = self.replica_of(primary)
        replica.client.config_set("masterauth", NO_PASSWORD)
        primary.command("CLIENT", "KILL", "TYPE", "replica")
        is_down: Callable[[], bool] = lambda: replica.replication()["master_link_status"] == "down"  # noqa: E731
        wait_until(is_down, AGREE_SECONDS, f"{replica} receives nothing")
        return replica

    def _is_as_at_start(self) -> bool:
        if not all(node.is_running for node in self.nodes):
            return False
        is_open = any(node.own_record().open_slots for node in self.nodes)
        return not is_open and agreed_layout(self.nodes) == layout_at_start(self.nodes)

    def _restart_nodes(self) -> None:
        """Let no node know another: primaries in the same processes, replicas and those that had ended in new ones.

        A replica that was promoted must not remember its election (`_wait_until_electable`). A primary, however,
        accepts no writes in the first 2 s of its process.
        """
        primaries = [node for node in self.nodes[:PRIMARIES] if node.is_running]
        others = [node for node in self.nodes if node not in primaries]
        for node in others:
            node.kill()
            node.remove_all()
            node.launch()
        for node in primaries:
            node.leave()
        for node in others:
            node.wait_until_ready()

    def _wait_until_electable(self, replica: ClusterNode) -> None:
        """Wait until a node that won an election holds a new one; nothing else shows that.

        Until then Redis (Valkey 9 not any more) lets it win without a vote, and the other nodes do not accept that.
        """
        at = replica.promoted_at + ELECTION_SECONDS
        wait_until(lambda: time.monotonic() > at, ELECTION_SECONDS + 1, f"{replica} has no election")

    def _form(self) -> None:
        """Make one cluster of servers that know no other."""
        with self.quick_gossip():
            for number, node in enumerate(self.nodes):
                node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)  # else they must first resolve equal ones
            for number, node in enumerate(self.nodes[:PRIMARIES]):
                node.command("CLUSTER", "ADDSLOTS", *slots_at_start(number))
            for number, node in enumerate(self.nodes):  # all meet all: half a second less than by gossip
                for other in self.nodes[number + 1 :]:
                    node.command("CLUSTER", "MEET", other.host, other.port)
            for primary, replica in zip(self.nodes, self.nodes[PRIMARIES:], strict=False):
                wait_until(partial(replica.knows, primary.node_id()), START_SECONDS, f"{replica} knows {primary}")
                replica.command("CLUSTER", "REPLICATE", primary.node_id())
            self.wait_until_agreed(lambda layout: layout == layout_at_start(self.nodes), "the cluster is formed")

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
