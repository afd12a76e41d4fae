"""Runs of the real flush of a cluster whose calls wait until a trace of the model of shards makes them.

A step is a call, with all that its thread does until its next one. So nothing happens beside a step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any, TypeVar
from unittest.mock import patch

import psycopg

from viewer_pipeline.errors import MarkerMoved, PipelineRefused, PostgresUnavailable
from viewer_pipeline.flush import (
    cluster_counters,
    commit,
    drain,
    ledger,
    ledger_reads,
    marker_ownership,
    shard_drain,
    shard_settle,
    shard_snapshot,
    transaction,
)
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.cluster_store import CLEAR_HOLD, SETTLE_GROUPED, ClusterStore, ShardReading
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.held_views import split_frame
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_row_types import Flush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.shard_settle import ShardSettler
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.sweep_position import SweepPart
from viewer_pipeline.layout import Layout
from viewer_pipeline.stores import cluster_nodes
from viewer_pipeline.stores.cluster_map import Address
from viewer_pipeline.stores.cluster_nodes import ClusterNodes, Command, Reply, ScriptCall
from viewer_pipeline.stores.grouped_scripts import GroupedScript, ScriptGroups, SlotCall
from viewer_pipeline.stores.redis import Script, connect
from viewer_pipeline.streams import Stream
from viewer_pipeline.target.add_or_park import FetchTotals
from viewer_pipeline_tests.support.dying import Died
from viewer_pipeline_tests.support.world import PREFIX

SECONDS = 60  # until a step that does not end is a failure
TRIES = 2  # of a superseded run, as in the model
AnyCall = TypeVar("AnyCall", ScriptCall, SlotCall)
Role = tuple[int, str]  # the number of a run, and which of its threads


class Gate:
    """Lets one thread at a time go on, from the call that the trace makes to its next one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._offers = dict[Role, tuple[str, ...]]()  # threads that wait, with the calls that they could make
        self._granted = dict[Role, str]()
        self._busy = set[Role]()
        self._waits_for_settler = set[int]()
        self._dead = set[int]()

    def call(self, role: Role, *options: str) -> str:
        """Wait until the trace makes one of these calls; return which. Raises Died."""
        with self._changed:
            self._offers[role] = options
            self._set_idle(role)
            self._changed.wait_for(lambda: role in self._granted or role[0] in self._dead)
            self._offers.pop(role, None)
            self._busy.add(role)
            if role[0] in self._dead:
                raise Died
            return self._granted.pop(role)

    def grant(self, number: int, call: str) -> None:
        """Let a run make a call, and wait for its next one. Raises AssertionError if it makes another call, or none."""
        with self._changed:
            offers = {role: options for role, options in self._offers.items() if role[0] == number}
            role = next((role for role, options in offers.items() if call in options), None)
            assert role is not None, f"the model makes the call {call!r}, run {number} one of {list(offers.values())}"
            del self._offers[role]
            self._granted[role] = call
            self._busy.add(role)
            self._changed.notify_all()
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Wait until every thread is at its next call, or has ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._busy, SECONDS), f"{self._busy} make no further call"

    def offers(self, number: int) -> set[str]:
        """Return the calls that a run could make next, of all its threads. None: it has ended."""
        with self._changed:
            return {call for role, calls in self._offers.items() if role[0] == number for call in calls}

    def begin(self, role: Role) -> None:
        """Note that a thread begins to work."""
        with self._changed:
            self._busy.add(role)

    def end(self, role: Role) -> None:
        """Note that a thread has ended. If it was a settler, its run may go on."""
        with self._changed:
            number = role[0]
            if role[1] == "settler" and number in self._waits_for_settler:
                self._waits_for_settler.discard(number)
                self._busy.add((number, "run"))
            self._set_idle(role)

    def wait_for_settler(self, number: int) -> None:
        """Note that a run waits for its settler."""
        with self._changed:
            if (number, "settler") in self._busy or (number, "settler") in self._offers:
                self._waits_for_settler.add(number)
                self._set_idle((number, "run"))

    def kill(self, *numbers: int) -> None:
        """Let these runs make no further call."""
        with self._changed:
            self._dead |= set(numbers)
            self._changed.notify_all()

    def _set_idle(self, role: Role) -> None:
        self._busy.discard(role)
        self._changed.notify_all()


class Scene:
    """What all runs of a trace share: the gate, and the numbers that the model has for shards."""

    def __init__(
        self, shards: Mapping[str, int], replicate: Callable[[Address], None], dump: Callable[[], None]
    ) -> None:
        """`shards`: number by key of the marker. `replicate`: a node; `dump`: PostgreSQL."""
        self.gate, self.shards, self.replicate, self.dump = Gate(), shards, replicate, dump


class Actor:
    """One run of the real flush, on a thread of its own."""

    def __init__(self, number: int, scene: Scene, stores: Stores, request: FlushRequest) -> None:
        self.number, self.scene = number, scene
        self.unexpected: BaseException | None = None
        self.has_ledger = self.has_slots = self.ends_sweep = False
        self._stores, self.request = stores, request
        self._thread = threading.Thread(target=self._run, name=f"run {number}", daemon=True)

    def start(self) -> None:
        """Start it, up to its first call."""
        self.scene.gate.begin((self.number, "run"))
        self._thread.start()
        self.scene.gate.wait_until_idle()

    def join(self) -> None:
        """Wait until the thread has ended. Raises what the flush must not raise."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), f"run {self.number} continues"
        if self.unexpected is not None:
            raise self.unexpected

    def call(self, *options: str) -> str:
        """Make a call of the current thread: that of the run or of its settler."""
        kind = "settler" if threading.current_thread().name.startswith("settler") else "run"
        return self.scene.gate.call((self.number, kind), *options)

    def call_in_any_order(
        self, verb: str, calls: Sequence[AnyCall], send: Callable[[AnyCall], list[Reply]]
    ) -> list[Reply]:
        """Return the replies to calls for different shards, which the trace makes in its order: nodes work in any."""
        waiting = {f"{verb} {self.shard(call)}": at for at, call in enumerate(calls)}
        assert len(waiting) == len(calls), "two calls for one shard"
        replies: list[Reply] = [None] * len(calls)
        while waiting:
            twice = (f"{name} twice" for name in waiting)
            name = self.call(*waiting, *twice)
            at = waiting.pop(name.removesuffix(" twice"))
            for _ in range(2 if name.endswith("twice") else 1):
                (replies[at],) = send(calls[at])
        return replies

    def shard(self, call: ScriptCall | SlotCall) -> int:
        """Return the number of the shard of a call: its first key is the marker."""
        return self.scene.shards[str(call.keys[0])]

    def _run(self) -> None:
        redis, ledger = self._stores.redis, self._stores.ledger
        try:
            with connect(redis.url) as client:
                held = HeldLedger(ledger.url, standby_wait=ledger.standby_wait)
                held.actor = self
                with held.keeping_connections() as kept:
                    store = HeldStore(client, redis.url, PREFIX, durability=redis.durability)
                    store.actor, store._groups = self, HeldGroups(self)
                    stores = Stores(store, kept)
                    snapshot = drain.drain(stores, self.request)
                    commit.bulk_upsert(stores, snapshot, aggregate(snapshot.readings))
        except (Died, MarkerMoved, PipelineRefused, PostgresUnavailable):
            pass  # errors that may end a run
        except BaseException as error:  # noqa: BLE001 - raised by join
            self.unexpected = error
        finally:
            self.scene.gate.end((self.number, "run"))


class HeldGroups(ScriptGroups):
    """Calls of `drain` and of the settling script: each waits for the trace, one shard at a time."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self._actor = actor

    def run(
        self, nodes: ClusterNodes, script: GroupedScript, calls: Sequence[SlotCall], *, following: bool
    ) -> list[Reply]:
        """Wait before each call. The trace chooses the order in which shards are settled."""
        if script is SETTLE_GROUPED:
            send = lambda call: super(HeldGroups, self).run(nodes, script, [call], following=following)  # noqa: E731
            return self._actor.call_in_any_order("settles", calls, send)
        replies = list[Reply]()
        for call in calls:
            self._actor.call(f"drains {self._actor.shard(call)}")
            replies += super().run(nodes, script, [call], following=following)
        return replies


class HeldNodes(ClusterNodes):
    """The nodes of a cluster: each call that clears `hold` waits for the trace."""

    actor: Actor

    def run_script_following(
        self, script: Script, calls: Sequence[ScriptCall], tries: int | None = None
    ) -> list[Reply]:
        """Wait before each call that clears `hold`."""
        if script is not CLEAR_HOLD:
            return super().run_script_following(script, calls, tries)
        send = lambda call: super(HeldNodes, self).run_script_following(script, [call], tries)  # noqa: E731
        return self.actor.call_in_any_order("clears hold of", calls, send)

    def run_following(self, commands: Sequence[Command]) -> list[Reply]:
        """Read the types of missing counters at once: markers and counters are read by scripts only."""
        assert {command.words[0] for command in commands} <= {"TYPE"}, f"the model makes no such calls: {commands}"
        return super().run_following(commands)

    def run_at(self, address: Address, *commands: tuple[str | bytes | int, ...]) -> list[Reply]:
        """Send it at once. What waits for a replica lets the copy of the trace have all that this node has."""
        replies = super().run_at(address, *commands)
        if commands[0][0] == "WAIT" and isinstance(replies[0], int):
            self.actor.scene.replicate(address)
        return replies


class HeldStore(ClusterStore):
    """The store of one run."""

    actor: Actor

    @property
    def nodes(self) -> ClusterNodes:
        """Connections whose calls wait."""
        nodes = super().nodes
        assert isinstance(nodes, HeldNodes)
        nodes.actor = self.actor
        return nodes

    @contextmanager
    def on_one_connection(self, *, only_names: bool = False) -> Iterator[HeldStore]:
        """Wait: with the slot map, a run reads the ledger. A scan belongs to the step before."""
        if not only_names:
            self.actor.call("reads the ledger")
            self.actor.has_ledger, self.actor.has_slots = False, False
        with super().on_one_connection(only_names=only_names) as store:
            yield store

    def begin(self, *arguments: Any) -> Any:
        """Wait: with the home slot, the run reads all that a sweep begins with."""
        self.actor.call("reads the floor")
        return super().begin(*arguments)

    def set_prepared(self, timeline: str, floor: int) -> None:
        """Wait."""
        self.actor.call("stores the floor")
        super().set_prepared(timeline, floor)

    def slots_at_nodes(self) -> tuple[str, str]:
        """Wait before the second time."""
        if self.actor.has_slots:
            self.actor.call("reads the slots")
        self.actor.has_slots = True
        return super().slots_at_nodes()

    def scan_ahead(self, cursor: int, limit: int) -> Iterator[tuple[int, list[bytes]]]:  # noqa: ARG002 - all at once
        """Return all ids, also those whose counters are deleted by now: the model drains every shard."""
        yield 0, [vod_id.encode() for vod_id in self.actor.request.vod_ids]

    def wait_until_shards_durable(self, readings: Mapping[int, ShardReading]) -> dict[int, str]:
        """Wait before each node; no two shards have the same."""
        if not self.durability.required:
            return super().wait_until_shards_durable(readings)
        broken = dict[int, str]()
        for shard, reading in readings.items():
            self.actor.call(f"waits for {self.actor.scene.shards[self.layout.marker_key(shard)]}")
            broken |= super().wait_until_shards_durable({shard: reading})
        return broken

    def record_holds(self, markers: Mapping[int, Marker]) -> None:
        """Wait, if there is any to record."""
        if any(marker.hold for marker in markers.values()):
            self.actor.call("records holds")
        super().record_holds(markers)

    def advance_sweep(self, part: SweepPart) -> bool:
        """Let the reading of `holds` wait that belongs to it."""
        self.actor.ends_sweep = True
        return super().advance_sweep(part)

    def holds(self) -> dict[int, str]:
        """Wait at the end of a sweep."""
        if self.actor.ends_sweep:
            self.actor.call("reads holds")
        return super().holds()


class HeldSettler(ShardSettler):
    """The settler of one run, which the gate knows as a thread of its own."""

    def __init__(
        self, redis: ClusterStore, ledger: Ledger, markers: Mapping[int, Marker], run_id: str, until: datetime | None
    ) -> None:
        super().__init__(redis, ledger, markers, run_id, until)
        assert isinstance(redis, HeldStore)
        self._gate, self._number = redis.actor.scene.gate, redis.actor.number

    def add(self, flush: Flush, fetch_totals: FetchTotals) -> None:
        """Note that the settler works."""
        self.wait()
        self._gate.begin((self._number, "settler"))
        super().add(flush, fetch_totals)

    def wait(self) -> None:
        """Note that the run waits."""
        if self._unsettled is not None:
            self._gate.wait_for_settler(self._number)
        super().wait()

    def _settle_and_publish(self, flush: Flush, fetch_totals: FetchTotals) -> None:
        try:
            super()._settle_and_publish(flush, fetch_totals)
        finally:
            self._gate.end((self._number, "settler"))


class HeldLedger(Ledger):
    """PostgreSQL, whose calls wait. `actors`: the actor of each connection."""

    actor: Actor
    actors: dict[int, Actor] = {}  # noqa: RUF012 - emptied by each trace

    @contextmanager
    def connect(self, *, any_server: bool = False, new: bool = False) -> Iterator[psycopg.Connection]:
        """Record the actor of the connection."""
        with super().connect(any_server=any_server, new=new) as connection:
            self.actors[id(connection)] = self.actor
            yield connection

    def require_standbys(self, connection: psycopg.Connection) -> None:
        """The model makes no such call: its standby is always connected."""

    def wait_for_standbys(self, connection: psycopg.Connection, seq: int, flush_id: Any) -> None:
        """Wait, then let the standby of the model, which is the dump, have what this server has."""
        if not self.standby_wait.required:
            return
        self.actor.call("waits for a standby")
        if not ledger_reads.read_commit_state(connection, str(flush_id)).committed:
            raise MarkerMoved(f"PostgreSQL has lost flush {seq}")
        self.actor.scene.dump()


def _held(function: Any, name: str) -> Any:
    def call(connection: psycopg.Connection, *arguments: Any) -> Any:
        HeldLedger.actors[id(connection)].call(name)
        return function(connection, *arguments)

    return call


def _last_flush(connection: psycopg.Connection, stream: Stream) -> Any:
    """Wait, except for the first time of a drain, which belongs to the step that began it."""
    actor = HeldLedger.actors[id(connection)]
    if actor.has_ledger:
        actor.call("reads the ledger again")
    actor.has_ledger = True
    return ledger_reads.last_flush(connection, stream)


def _split_frame(connection: psycopg.Connection, frame: Any) -> Any:
    if len(frame):
        HeldLedger.actors[id(connection)].call("reads counted views")
    return split_frame(connection, frame)


@contextmanager
def held_calls(shards: Sequence[int]) -> Iterator[None]:
    """Let the calls of all actors wait, and no shards but these have markers."""
    check = _held(marker_ownership.require_undiverged_shards, "lists batches")
    HeldLedger.actors.clear()
    with ExitStack() as stack:
        for owner, name, value in (
            (cluster_counters, "ClusterNodes", HeldNodes),
            (shard_snapshot, "ShardSettler", HeldSettler),
            (ledger, "last_flush", _last_flush),
            (shard_drain, "require_undiverged_shards", check),
            (shard_settle, "require_undiverged_shards", check),
            (shard_snapshot, "split_frame", _split_frame),
            (transaction, "commit_flush", _held(transaction.commit_flush, "commits")),
            (Layout, "shards", property(lambda _: shards)),
            (commit, "SUPERSEDED_TRIES", TRIES),
            (cluster_nodes, "FOLLOW_TRIES", 3),
            (cluster_nodes, "FOLLOW_SECONDS", 0.001),
        ):
            stack.enter_context(patch.object(owner, name, value))
        yield
