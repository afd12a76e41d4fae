"""Two flushes, a subscriber and a producer, call by call, in the order and with the faults of a plan."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import NoneType
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from viewer_pipeline.errors import PostgresUnavailable, TransientError
from viewer_pipeline.flush import settle as settler
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.ingest import subscriber_scripts
from viewer_pipeline.ingest.subscriber_scripts import LeaseLost, SubscriberScripts
from viewer_pipeline_tests.support.calls import client_of_threads, watching
from viewer_pipeline_tests.support.claims import claim
from viewer_pipeline_tests.support.schedule import Actor, Line, Scheduler
from viewer_pipeline_tests.support.world import PREFIX, ConnectedWorld, World

SECOND_FLUSH, SUBSCRIBER, LAST = 1, 2, -1  # places among the lines that can go on, the first two at the start
AT_RANDOM = 40  # plans of `make test`; VIEWER_TEST_INTERLEAVINGS sets another number
WANTED = int(os.environ.get("VIEWER_TEST_INTERLEAVINGS", "0"))
VODS = ("a", "b", "c")
SEGMENTS = {1: Counter(a=1, d=2), 2: Counter(b=4, d=8)}  # segments of the subscriber: no producer announces d
PART = 1  # views are folded one VOD a script
BATCHES: dict[str, Any] = {"batch_size": 1, "flush_max_counters": 2}
HOUR_MS = 3_600_000
TOO_LONG = 2000  # calls: more than all actors together make


class Event(NamedTuple):
    """An event after a number of calls. Without events, the actors run to their end one after the other."""

    after: int
    kind: Literal["switch", "cut", "lost", "die", "die before the reply", "send", "flush", "subscribe"]
    pick: int = 0


EVENTS = st.builds(
    Event,
    st.integers(0, 25),
    st.sampled_from(
        ["switch", "switch", "switch", "cut", "lost", "die", "die before the reply", "send", "flush", "subscribe"]
    ),
    st.integers(0, 4),
)


class Play:
    """One execution of a plan on empty servers."""

    def __init__(self, world: ConnectedWorld) -> None:
        self.world = world
        self.scheduler = Scheduler(world.connection)
        self.actors: list[Actor] = []
        self._current: Line | None = None
        self._totals: dict[str, int] = {}
        self._counted: Counter[str] = Counter()  # views of producers that raise counters

    def perform(self, plan: Sequence[Event]) -> None:
        """Run the actors by the plan, then to their ends; then every view must be counted once."""
        self._empty()
        for vod_id in VODS:
            self._send(vod_id)
        for views in SEGMENTS.values():
            self.world.sent += views
        try:
            with ExitStack() as stack:
                stack.enter_context(patch.object(settler, "ThreadPoolExecutor", self.scheduler.executor))
                stack.enter_context(patch.object(subscriber_scripts, "PART_COUNTERS", PART))
                stack.enter_context(watching(self.scheduler))
                try:
                    self._act(plan)
                finally:
                    for actor in self.actors:
                        self.scheduler.kill(actor)
            with patch.object(subscriber_scripts, "PART_COUNTERS", PART):
                self._end()
        except BaseException as error:
            error.add_note("\n".join(["the calls, in order:", *self.scheduler.trace]))
            raise

    def _empty(self) -> None:
        tables = ("flush", "flush_batch", "vod_view_counts", "parked", "rejected")
        self.world.execute("; ".join(f"DELETE FROM viewer.{table}" for table in tables))
        self.world.client.flushall()
        self.world.sent.clear()

    def _send(self, vod_id: str) -> None:
        self.world.send(vod_id, 1 + VODS.index(vod_id), announce=True)
        self._counted[vod_id] += 1 + VODS.index(vod_id)

    def _act(self, plan: Sequence[Event]) -> None:
        self._begin(self._flush, "flush")
        self._begin(self._flush, "flush")
        self._begin(self._subscribe, "subscriber")
        for event in plan:
            for _ in range(event.after):
                self._advance()
            self._happen(event)
        while self._advance():
            assert self.scheduler.calls < TOO_LONG, "no actor ends"
        assert [line for line in self.scheduler.lines if line.state != "ended"] == []
        for actor in self.actors:
            if actor.failed is not None and not isinstance(actor.failed, TransientError):
                raise actor.failed

    def _happen(self, event: Event) -> None:
        match event.kind:
            case "switch":
                ready = self.scheduler.ready()
                self._current = ready[event.pick % len(ready)] if ready else None
            case "send":
                vod_id = VODS[event.pick % len(VODS)]
                self.scheduler.trace.append(f"producer: INCR {vod_id}")
                self._send(vod_id)
            case "flush":
                self._begin(self._flush, "flush")
            case "subscribe":
                self._begin(self._subscribe, "subscriber")
            case fate:
                if (line := self._next_line()) is not None:
                    self.scheduler.step(line, fate)
                    self._check_invariants()

    def _begin(self, do: Callable[[Actor], None], kind: str) -> None:
        actor = Actor(f"{kind} {sum(other.name.startswith(kind) for other in self.actors) + 1}")
        self.actors.append(actor)
        self.scheduler.start(actor, "main", lambda: do(actor))
        self.scheduler.settle_down()

    def _next_line(self) -> Line | None:
        """Return the line that continues by default: the current one, else one of its actor, else the oldest."""
        ready = self.scheduler.ready()
        if self._current not in ready:
            own = [line for line in ready if self._current is not None and line.actor is self._current.actor]
            self._current = next(iter([*own, *ready]), None)
        return self._current

    def _advance(self) -> bool:
        line = self._next_line()
        if line is None:
            return False
        self.scheduler.step(line)
        name = line.call.name if line.call is not None else ""
        if name == "COMMIT" or name.startswith(("EVAL", "pipeline [SCRIPT")):
            self._check_invariants()
        return True

    def _check_invariants(self) -> None:
        """Assert the invariants that hold at any time, between any two calls."""
        totals, marker = self.world.totals(), self.world.marker()
        ledger = self.world.rows("SELECT seq, batches FROM viewer.flush ORDER BY seq DESC LIMIT 1")
        pending: Any = self.world.client.mget([PREFIX + vod_id for vod_id in VODS])
        assert {v: n for v, n in self._totals.items() if totals.get(v, 0) < n} == {}, "totals fell"
        assert {v: n for v, n in totals.items() if n > self.world.sent[v]} == {}, "totals are higher than kind was sent"
        assert marker is None or (marker.seq, marker.batch) <= (ledger or [(0, 0)])[0], "the marker passed the ledger"
        seen = Counter(totals) + Counter({v: int(n or 0) for v, n in zip(VODS, pending, strict=True)})
        assert self._counted - seen == Counter(), "a reader of both servers misses views"
        self._totals = totals

    def _end(self) -> None:
        """Fold and flush once more, undisturbed."""
        self._fold(self.world.client, "last")
        done = self.world.flush(**BATCHES)
        assert (done.left_over, done.notes.drift) == (False, 0)
        self._check_invariants()
        self.world.assert_conserved()
        self.world.assert_all_persisted()
        counted = self.world.rows("SELECT coalesce(sum(d), 0) FROM viewer.flush_batch, unnest(deltas) AS d")
        assert counted == [(self.world.sent.total(),)]
        seqs = self.world.seqs()
        assert seqs == list(range(1, len(seqs) + 1))

    def _flush(self, actor: Actor) -> None:
        url = self.world.stores.redis.url
        kept = self.world.stores.ledger.keeping_connections()
        with client_of_threads(url, retry=Retry(NoBackoff(), 3)) as client, kept as ledger:
            stores = Stores(RedisStore(client, url, PREFIX), ledger)
            snapshot = drain(stores, World.request(run_id=actor.name, **BATCHES))
            done = bulk_upsert(stores, snapshot, aggregate(snapshot.readings))
            assert done.notes.drift == 0, "counters held less than they should"

    def _subscribe(self, actor: Actor) -> None:
        with client_of_threads(self.world.stores.redis.url, retry=Retry(NoBackoff(), 3)) as client:
            self._fold(client, actor.name)

    def _fold(self, client: Any, token: str) -> None:
        """Take the lease from its holder, and fold all received messages."""
        store = SubscriberScripts(RedisStore(client, self.world.stores.redis.url, PREFIX), increment=True)
        self.world.client.hset("viewer:subscriber", "expires", 0)
        lease = store.acquire_or_renew_lease(claim(self.world.identity, "test", token, token), HOUR_MS, 0)
        if lease.outcome == "held_by_other":
            store.acquire_or_renew_lease(claim(self.world.identity, "test", token, token, lease.term), HOUR_MS, 0)
        try:
            for number, views in SEGMENTS.items():
                store.fold_segment(token, number, views, 1)
        except LeaseLost:
            assert token != "last"


@pytest.fixture
def quick(stores: Stores) -> Iterator[ConnectedWorld]:
    """A world that is checked after each step."""
    with ConnectedWorld(stores) as world:
        yield world


class Tally:
    """The number of plans and calls that were executed."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.plays = self.calls = self.waited = 0

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self.started

    def perform(self, world: ConnectedWorld, plan: Sequence[Event]) -> Play:
        """Perform a plan and count it; return the play."""
        play = Play(world)
        play.perform(plan)
        self.plays += 1
        self.calls += play.scheduler.calls
        self.waited += play.scheduler.waited
        return play

    def __str__(self) -> str:
        rate = self.plays / self.seconds
        return (
            f"{self.plays} interleavings, {self.calls} calls in {self.seconds:.0f} s, {rate:.1f} interleavings a second"
        )


@pytest.fixture
def tally(quick: ConnectedWorld) -> Tally:
    """Nothing executed yet; Redis has cached all scripts, so that all plays make the same calls."""
    Play(quick).perform([])
    return Tally()


def calls_of(world: ConnectedWorld, name: str) -> int:
    """Return the number of calls that an undisturbed actor makes."""
    play = Play(world)
    play.perform([])
    return sum(call.startswith(name) for call in play.scheduler.trace)


@pytest.mark.timeout(600 + WANTED)
@pytest.mark.usefixtures("totals_statement")
def test_a_switch_at_every_call(quick: ConnectedWorld, tally: Tally, add_to_summary: Callable[[str], None]) -> None:
    """A flush stops before each of its calls in turn, and the other runs to its end in between."""
    calls = calls_of(quick, "flush 1")
    for after in range(calls):
        tally.perform(quick, [Event(after, "switch", SECOND_FLUSH)])
        if WANTED:
            for later in range(calls):
                tally.perform(quick, [Event(after, "switch", SECOND_FLUSH), Event(later, "switch")])
    add_to_summary(f"passed on at each call: {tally}")
    assert tally.plays >= calls > 20
    assert tally.waited >= 10  # calls of a transaction, each a moment at which the other must wait for it


@pytest.mark.usefixtures("totals_statement")
@pytest.mark.parametrize("fate", ["cut", "lost"])
def test_every_call_without_a_reply(
    quick: ConnectedWorld, tally: Tally, fate: Literal["cut", "lost"], add_to_summary: Callable[[str], None]
) -> None:
    """A connection breaks before or after the server executed the call, and the flush must find out which."""
    calls, failed = calls_of(quick, "flush 1"), list[type]()
    for after in range(calls):
        play = tally.perform(quick, [Event(after, fate)])
        if any(call.endswith(f"COMMIT  <- {fate}") for call in play.scheduler.trace):
            failed.append(type(play.actors[0].failed))
    # A COMMIT that was executed is found in the ledger (rule R8). After the first, the next one has no connection.
    assert failed == [PostgresUnavailable, {"cut": PostgresUnavailable, "lost": NoneType}[fate]]
    add_to_summary(f"{fate} at each call: {tally}")
    assert tally.plays == calls > 20


@pytest.mark.parametrize("kind", ["cut", "lost", "die", "die before the reply", "subscribe"])
def test_every_call_of_a_subscriber(
    quick: ConnectedWorld,
    tally: Tally,
    kind: Literal["cut", "lost", "die", "die before the reply", "subscribe"],
    add_to_summary: Callable[[str], None],
) -> None:
    """At each of its calls its connection breaks, it dies, or another takes the lease; then another folds the rest."""
    assert all(
        all(subscriber_scripts.split_by_id_hash(views, len(views))) for views in SEGMENTS.values()
    )  # else a part tells nothing
    calls = calls_of(quick, "subscriber 1")
    for after in range(calls):
        taken_over = [Event(after, kind), Event(0, "subscribe"), Event(0, "switch", LAST)]
        tally.perform(quick, [Event(0, "switch", SUBSCRIBER), *taken_over])
    add_to_summary(f"subscriber, {kind} at each call: {tally}")
    assert tally.plays == calls >= 6


@pytest.mark.timeout(600 + WANTED)
def test_any_interleaving(quick: ConnectedWorld, tally: Tally, add_to_summary: Callable[[str], None]) -> None:
    """With random switches, faults and deaths at any call, no total is ever wrong, and every view counts once."""

    @settings(max_examples=WANTED or AT_RANDOM, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(EVENTS, max_size=8))
    def any_plan(plan: list[Event]) -> None:
        tally.perform(quick, plan)

    any_plan()
    add_to_summary(f"at random: {tally}")
    assert tally.plays >= (WANTED or AT_RANDOM)
