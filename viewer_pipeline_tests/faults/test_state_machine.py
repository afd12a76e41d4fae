"""A state machine for Hypothesis: producers, flushes that die, restarts, an emptied Redis, restored copies and dumps.

It has its own servers. STATE_MACHINE_EXAMPLES=200 runs more examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.ingest.subscriber_scripts import SubscriberScripts
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.held_views import count_held, held_by_epoch
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.dying import dying_at
from viewer_pipeline_tests.support.servers import restore_database
from viewer_pipeline_tests.support.state_machine import run_examples
from viewer_pipeline_tests.support.world import PREFIX, World

TEMPLATE, DUMP = "machine_template", "machine_dump"
VODS = st.sampled_from(["a", "b", "c", "d", "e"])
HOUR_MS = 3_600_000


# Each is the last thing that a flush does.
DEATHS: dict[str, tuple[Any, str]] = {
    "before the counters are read": (RedisStore, "changed_set_size_and_oldest"),
    "inside the transaction": (transaction, "copy_batches"),
    "before settling": (Settler, "add"),
    "in the middle of settling": (RedisStore, "_send_settle_scripts"),
    "after settling": (RedisStore, "remove_from_changed_set"),
}


class Machine(RuleBasedStateMachine):
    """Both servers, and the views that must be there: those sent minus the losses that disasters may cause.

    After Redis was restored from a copy without its marker, nobody knows which of its views were counted before. From
    then on `views` are those that must be in totals, held views and counters, and `limit` those that totals may have.
    """

    postgres: ClassVar[PostgresServer]
    redis: ClassVar[RedisServer]
    restarts: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.views = Counter[str]()
        self.seen = Counter[str]()  # totals, as they were last
        self.folded = Counter[str]()
        self.dumped = Counter[str]()
        self.copied = Counter[str]()  # counters of the copy of Redis
        self.limit: Counter[str] | None = None  # None: it equals `views`
        self.left = 1  # restarts of either server in one example: each costs half a second

    @initialize()
    def begin(self) -> None:
        """Begin with empty servers."""
        self._as_in(TEMPLATE)
        self._dump()
        with connect(self.redis.url) as client:
            client.flushall()
        self._open()

    def teardown(self) -> None:
        """Flush everything: every view is persisted."""
        self.world.flush()
        assert self.world.counters() == {}
        self._assert_exact()
        self.world.client.close()

    # --- producers ---

    @rule(vod_id=VODS, views=st.integers(1, 5), announced=st.booleans())
    def incr(self, vod_id: str, views: int, announced: bool) -> None:
        """INCR, with or without an announcement."""
        self.world.send(vod_id, views, announce=announced)
        self._add({vod_id: views})

    @rule(received=st.dictionaries(VODS, st.integers(1, 3), min_size=1), times=st.integers(1, 2))
    def publish(self, received: dict[str, int], times: int) -> None:
        """PUBLISH only: the messages that a subscriber received between two cuts are folded, and sent again."""
        segment = self.scripts.publish_cut(self.space, "token", 0)
        for _ in range(times):
            self.scripts.fold_segment("token", segment, Counter(received), 1)
        self._add(received)

    # --- runs ---

    @rule(mode=st.sampled_from(["sweep", "changed"]))
    def flush(self, mode: Any) -> None:
        """Run undisturbed; a sweep leaves nothing."""
        self.world.flush(mode)
        if mode == "sweep":
            assert self.world.counters() == {}

    @rule(death=st.sampled_from(list(DEATHS)), calls=st.integers(0, 2))
    def crash(self, death: str, calls: int) -> None:
        """Die at the first, second or third call of this kind."""
        owner, name = DEATHS[death]
        with dying_at(owner, name, calls):
            self.world.flush()

    @rule()
    def settle(self) -> None:
        """Drain and stop: committed flushes are settled, nothing else happens."""
        before = self._stored()
        drain(self.world.stores, self.world.request())
        assert self._stored() == before
        assert self.world.accounted() == self.views

    @precondition(lambda self: self.limit is None)
    @rule()
    def count_held(self) -> None:
        """Redis had only been emptied: what is held is new."""
        with self.world.stores.ledger.connect() as connection:
            for held in held_by_epoch(connection):
                count_held(Adjuster(self.world.stores, connection, "machine", 2), None, held.epoch, 2)
        assert not self.world.held()

    # --- disasters ---

    @rule()
    def redis_is_emptied(self) -> None:
        """The pending views are lost, and nothing else."""
        self.world.client.flushall()
        self.views = self._stored()
        self._hold()

    @rule()
    def redis_is_copied(self) -> None:
        """Copy the counters alone, to restore them later."""
        self.copied = Counter(self.world.counters())

    @rule()
    def redis_is_restored_without_its_marker(self) -> None:
        """What is in the copy may have been counted since; later views are lost."""
        limit = self.limit or Counter(self.views)
        self.world.client.flushall()
        for vod_id, views in self.copied.items():
            self.world.client.set(PREFIX + vod_id, views)
        self.views, self.limit = self._stored() + self.copied, limit
        self._hold()

    @precondition(lambda self: self.left)
    @rule()
    def redis_restarts(self) -> None:
        """Nothing is lost: the AOF is written when a server stops."""
        before = self.world.counters()
        self._restart(self.redis)
        assert self.world.counters() == before

    @precondition(lambda self: self.left)
    @rule()
    def postgres_restarts(self) -> None:
        """Nothing is lost."""
        before = self.world.totals()
        self._restart(self.postgres)
        assert self.world.totals() == before

    @rule()
    def postgres_is_dumped(self) -> None:
        """Make a dump to restore later."""
        self._dump()

    @rule()
    def postgres_is_restored(self) -> None:
        """Views settled since the dump are lost; unsettled ones are pending again."""
        due = self._unsettled()
        before = self._stored()
        self._as_in(DUMP)
        gone = before - self._stored()
        self.views -= gone - due
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
        """Totals have no more than there is, whatever Redis was restored from."""
        assert Counter(self.world.totals()) <= (self.views if self.limit is None else self.limit)

    # --- how ---

    def _open(self) -> None:
        client, url = connect(self.redis.url), self.redis.url
        self.world = World(Stores(RedisStore(client, url, PREFIX), Ledger(self.postgres.url)))
        self.scripts = SubscriberScripts(RedisStore(client, url, PREFIX), increment=True)
        self._hold()

    def _hold(self) -> None:
        """Hold the lease of the subscribers."""
        self.space = self.scripts.read_or_create_key_space_id()
        self.world.client.hset("viewer:subscriber", "holder", "token")

    def _restart(self, server: RedisServer | PostgresServer) -> None:
        self.left -= 1
        self.world.client.close()
        server.stop()
        server.start()
        type(self).restarts += 1
        self._open()

    def _unsettled(self) -> Counter[str]:
        """Return the views of the ledger that are still in their counters."""
        marker = self.world.stores.redis.marker()  # with its epoch
        if marker is None:
            return Counter()
        rows = self.world.rows(
            "SELECT v, d, f.epoch FROM viewer.flush_batch JOIN viewer.flush AS f USING (seq),"
            " unnest(vod_ids, deltas) AS c (v, d)"
            f" WHERE (seq, batch) > ({marker.seq}, {marker.batch})"
        )
        due = Counter[str]()
        for vod_id, delta, epoch in rows:
            if epoch == marker.epoch:
                due[vod_id] += delta
        return due

    def _stored(self) -> Counter[str]:
        """Return what PostgreSQL has: totals and held views."""
        return Counter(self.world.totals()) + self.world.held()

    def _add(self, views: Mapping[str, int]) -> None:
        self.views.update(views)
        if self.limit is not None:
            self.limit.update(views)

    def _assert_exact(self) -> None:
        """Nothing is pending: every view is in PostgreSQL, and no more is counted than there may be."""
        assert self._stored() == self.views
        self.nothing_counts_twice()

    def _dump(self) -> None:
        self._copy("viewer", DUMP)

    def _as_in(self, database: str) -> None:
        self._copy(database, "viewer")

    def _copy(self, database: str, to: str) -> None:
        with psycopg.connect(self.postgres.url_of_database("postgres"), autocommit=True) as connection:
            restore_database(connection, to, database)


@pytest.fixture
def machine(servers_home: Path) -> Iterator[type[Machine]]:
    """The machine with its own servers, which it may restart."""
    with ExitStack() as stack:
        Machine.postgres = PostgresServer(servers_home, throw_away=True)
        Machine.redis = RedisServer(servers_home)
        for server in (Machine.postgres, Machine.redis):
            server.start()
            stack.callback(server.stop)
        with psycopg.connect(Machine.postgres.url_of_database("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate(Machine.postgres.url_of_database(TEMPLATE), with_dagster=False)
        yield Machine


def test_each_death(machine: type[Machine]) -> None:
    """Deaths that Hypothesis may leave out: only committed and unsettled views are seen twice meanwhile."""
    unsettled = {}
    for death in DEATHS:
        state = machine()
        state.begin()
        for vod_id in "abc":
            state.incr(vod_id=vod_id, views=2, announced=True)
        state.crash(death=death, calls=0)
        state.totals_never_fall()
        state.a_reader_misses_nothing()
        unsettled[death] = state._unsettled().total()
        state.teardown()
    assert unsettled == dict.fromkeys(DEATHS, 0) | {"before settling": 6, "in the middle of settling": 6}


@pytest.mark.timeout(3600)
def test_random_sequences_of_events(machine: type[Machine]) -> None:
    """No step loses or repeats a view beyond the allowed losses of its disaster."""
    run_examples(machine, 5)
