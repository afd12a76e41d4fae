"""A state machine for Hypothesis on a Redis Cluster: flushes die, nodes are emptied or fall back, slots move.

STATE_MACHINE_EXAMPLES=200 runs more examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from viewer_pipeline.flush import transaction
from viewer_pipeline.flush.cluster_store import ClusterStore, as_cluster
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.layout import Layout, key_slot
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.held_views import count_held, held_by_epoch
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.cluster_world import opened
from viewer_pipeline_tests.support.dying import dying_at
from viewer_pipeline_tests.support.servers import restore_database
from viewer_pipeline_tests.support.state_machine import run_examples
from viewer_pipeline_tests.support.world import PREFIX

TEMPLATE, DUMP = "cluster_machine_template", "cluster_machine_dump"
IDS = ["a", "b", "c", "d", "e", "f"]
VODS, NODES = st.sampled_from(IDS), st.integers(0, 2)
SHARDS = {vod_id: key_slot((PREFIX + vod_id).encode()) + 1 for vod_id in IDS}

# Each is the last thing that a flush does.
DEATHS: dict[str, tuple[Any, str]] = {
    "before the counters are read": (ClusterStore, "changed_set_size_and_oldest"),
    "after a part was read": (ClusterStore, "drain_shards"),
    "inside the transaction": (transaction, "copy_batches"),
    "before settling": (Settler, "add"),
    "in the middle of settling": (ClusterStore, "_settle_call"),
    "after settling": (ClusterStore, "remove_announced_until"),
    "at the end of a sweep": (ClusterStore, "advance_sweep"),
}
Dump = dict[bytes, Any]


class Machine(RuleBasedStateMachine):
    """A cluster and a database, and the views that must be there: those sent minus the losses that disasters may cause.

    `limit`: the views that totals may have at most. Once a node came back without its markers, or PostgreSQL was
    restored, nobody knows which views were counted before, and more may be held than were sent.
    """

    postgres: ClassVar[PostgresServer]
    cluster: ClassVar[RedisCluster]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.views, self.limit, self.seen = Counter[str](), Counter[str](), Counter[str]()
        self.copies: list[Dump] = [{}, {}, {}]
        self.may_hold_too_much = False

    @initialize()
    def begin(self) -> None:
        """Begin with empty servers."""
        self.cluster.reset()
        self._copy(TEMPLATE, "viewer")
        self._copy("viewer", DUMP)
        self.world = self.stack.enter_context(opened(self.cluster, self.postgres.url))

    def teardown(self) -> None:
        """Flush everything: every view is persisted or held."""
        try:
            for _ in range(2):
                self.world.flush()
            assert self.world.counters() == {}
            assert self._stored() == self.views
            self.nothing_counts_twice()
        finally:
            self.stack.close()

    # --- producers and runs ---

    @rule(vod_id=VODS, views=st.integers(1, 5), announced=st.booleans())
    def incr(self, vod_id: str, views: int, announced: bool) -> None:
        """INCR, with or without an announcement."""
        self.world.send(vod_id, views, announce=announced)
        self.views[vod_id] += views
        self.limit[vod_id] += views

    @rule(mode=st.sampled_from(["sweep", "changed"]))
    def flush(self, mode: Any) -> None:
        """Run undisturbed; a sweep leaves nothing."""
        self.world.flush(mode)
        if mode == "sweep" and not self.world.flush("sweep").remaining:
            assert self.world.counters() == {}

    @rule(counters=st.integers(1, 3))
    def flush_a_part(self, counters: int) -> None:
        """Run a part of a sweep."""
        self.world.flush("sweep", run_max_counters=counters)

    @rule(death=st.sampled_from(list(DEATHS)), calls=st.integers(0, 3))
    def crash(self, death: str, calls: int) -> None:
        """Die at one of the first calls of this kind."""
        owner, name = DEATHS[death]
        with dying_at(owner, name, calls):
            self.world.flush()

    @rule()
    def settle(self) -> None:
        """Drain and stop: nothing else happens."""
        before = self._stored()
        drain(self.world.stores, self.world.request())
        assert self._stored() == before

    @precondition(lambda self: not self.may_hold_too_much)
    @rule()
    def count_held(self) -> None:
        """Nodes had only been emptied: what is held is new."""
        with self.world.stores.ledger.connect() as connection:
            for held in held_by_epoch(connection):
                count_held(Adjuster(self.world.stores, connection, "machine", 2), None, held.epoch, 2)
        assert not self.world.held()

    @rule(vod_id=VODS, node=NODES)
    def slot_moves(self, vod_id: str, node: int) -> None:
        """Give the slot of a VOD to another node."""
        slot, target = SHARDS[vod_id] - 1, self._node(node)
        if self.cluster.node_of_slot(slot) is not target:
            self.cluster.migrate_slot(slot, target)

    # --- disasters ---

    @rule(node=NODES)
    def node_is_emptied(self, node: int) -> None:
        """The views that were pending there are lost."""
        self.cluster.empty(self._node(node))
        self._accept_losses()

    @rule(node=NODES)
    def node_is_copied(self, node: int) -> None:
        """Copy its keys, to restore them later."""
        client = self._node(node).client
        self.copies[node] = {key: client.dump(key) for key in client.scan_iter()}

    @rule(node=NODES, with_markers=st.booleans())
    def node_falls_back(self, node: int, with_markers: bool) -> None:
        """To its copy, as a replica that lacks the last writes; or to the counters of that copy alone."""
        client = self._node(node).client
        client.flushall()
        for key, value in self.copies[node].items():
            is_here = self.cluster.node_of_slot(key_slot(key)) is self._node(node)
            if is_here and (with_markers or key.startswith(PREFIX.encode())):
                client.restore(key, 0, value)
        self.may_hold_too_much = True
        self._accept_losses()

    @rule()
    def postgres_is_dumped(self) -> None:
        """Make a dump to restore later."""
        self._copy("viewer", DUMP)

    @rule()
    def postgres_is_restored(self) -> None:
        """Views settled since the dump are lost; unsettled ones are pending again."""
        self._copy(DUMP, "viewer")
        self.may_hold_too_much = True
        self._accept_losses()
        self.seen = Counter(self.world.totals())

    # --- what holds at any time ---

    @invariant()
    def totals_never_fall(self) -> None:
        """Unless PostgreSQL is restored."""
        totals = Counter(self.world.totals())
        assert totals >= self.seen
        self.seen = totals

    @invariant()
    def a_reader_misses_nothing(self) -> None:
        """A reader who adds PostgreSQL and Redis sees every view, and committed unsettled ones twice."""
        assert Counter(self.world.counters()) + self._stored() == self.views + self._unsettled()

    @invariant()
    def nothing_counts_twice(self) -> None:
        """Totals have no more than was sent, whatever the nodes were restored from."""
        assert Counter(self.world.totals()) <= self.limit

    # --- how ---

    def _node(self, number: int) -> ClusterNode:
        return self.cluster.nodes[number]

    def _accept_losses(self) -> None:
        self.views = Counter(self.world.counters()) + self._stored() - self._unsettled()

    def _unsettled(self) -> Counter[str]:
        """Return the views of the ledger that are still in their counters."""
        markers = as_cluster(self.world.stores.redis).shard_markers(SHARDS.values())
        rows = self.world.rows(
            "SELECT shard, seq, batch, epoch, v, d FROM viewer.flush_batch, unnest(vod_ids, deltas) AS c (v, d)"
            " WHERE shard > 0"
        )
        due = Counter[str]()
        for shard, seq, batch, epoch, vod_id, delta in rows:
            marker = markers[shard]
            if marker is not None and (seq, batch) > marker[:2] and epoch == marker.epoch:
                due[vod_id] += delta
        return due

    def _stored(self) -> Counter[str]:
        """Return what PostgreSQL has: totals and held views."""
        return Counter(self.world.totals()) + self.world.held()

    def _copy(self, database: str, to: str) -> None:
        with psycopg.connect(self.postgres.url_of_database("postgres"), autocommit=True) as connection:
            restore_database(connection, to, database)


@pytest.fixture
def machine(
    servers_home: Path, redis_cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Machine]]:
    """The machine with its own PostgreSQL. Only the shards of its VODs get markers, of 16384."""
    monkeypatch.setattr(Layout, "shards", sorted(SHARDS.values()))
    Machine.postgres, Machine.cluster = PostgresServer(servers_home, throw_away=True), redis_cluster
    Machine.postgres.start()
    try:
        with psycopg.connect(Machine.postgres.url_of_database("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate(Machine.postgres.url_of_database(TEMPLATE), with_dagster=False)
        yield Machine
    finally:
        Machine.postgres.stop()


@pytest.mark.timeout(3600)
def test_random_sequences_of_events(machine: type[Machine]) -> None:
    """No step loses or repeats a view beyond the allowed losses of its disaster."""
    run_examples(machine, 4)
