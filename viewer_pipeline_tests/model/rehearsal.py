"""Drives the real flush along a trace of the model: every call of every run waits until the trace makes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import psycopg

from viewer_pipeline.errors import MarkerMoved, PipelineRefused, PostgresUnavailable
from viewer_pipeline.flush import (
    candidates,
    commit,
    counter_reader,
    drain,
    held_views,
    ledger,
    ledger_reads,
    marker_ownership,
    redis_store,
    settle,
    snapshot,
    transaction,
)
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.readings import Readings
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.standby_wait import StandbyWait
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.redis_names import MARKER
from viewer_pipeline_tests.model.values import Step, World
from viewer_pipeline_tests.support.dying import Died
from viewer_pipeline_tests.support.world import PREFIX
from viewer_pipeline_tests.support.world import World as Servers

SECONDS = 60  # until a call that is missing, or that the model does not make, is a failure
TABLES = ("flush", "flush_batch", "vod_view_counts", "held")


class Gate:
    """Lets one call at a time pass: the one that the trace makes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, str] = {}
        self._granted: tuple[str, str] | None = None
        self._dead: set[str] = set()

    @contextmanager
    def call(self, actor: str, call: str) -> Iterator[str]:
        """Wait until the trace makes this call; yields its name in the trace. Raises Died."""
        with self._changed:
            self._waiting[actor] = call
            self._changed.notify_all()
            in_time = self._changed.wait_for(lambda: self._is_granted(actor) or actor in self._dead, SECONDS)
            del self._waiting[actor]
            if actor in self._dead:
                raise Died
            assert in_time, f"{actor} calls {call!r}, the model makes no such call"
            assert self._granted is not None
            name = self._granted[1]
        try:
            yield name
        finally:
            with self._changed:
                self._granted = None
                self._changed.notify_all()

    def grant(self, actor: str, call: str) -> None:
        """Let a call pass, and wait for its reply. Raises AssertionError if another call or none is made."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: actor in self._waiting, SECONDS)
            assert in_time, f"{actor} makes no call, the model makes {call!r}"
            expected = call.replace(" twice", "").partition(" without")[0].partition(" that")[0]
            assert self._waiting[actor] == expected, f"{actor} calls {self._waiting[actor]!r}, the model {call!r}"
            self._granted = actor, call
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._granted is None, SECONDS), f"{actor}: {call} does not end"

    def kill(self, *actors: str) -> None:
        """Let these make no further call."""
        with self._changed:
            self._dead |= set(actors)
            self._changed.notify_all()

    def _is_granted(self, actor: str) -> bool:
        return self._granted is not None and self._granted[0] == actor


class Actor:
    """One run of the real flush on a thread of its own."""

    def __init__(
        self, number: int, cut: int, vods: int, servers: Servers, gate: Gate, *, replicate: Callable[[], None]
    ) -> None:
        self.number, self._gate, self.replicate = number, gate, replicate
        self.unexpected: BaseException | None = None
        redis = servers.stores.redis
        self.ledger_url = servers.stores.ledger.url
        self._stores = Stores(
            HeldRedis(redis._client, redis.url, self),
            HeldLedger(servers.stores.ledger.url, self, servers.stores.ledger.standby_wait),
        )
        ids = tuple(f"v{vod}" for vod in range(vods))
        self._request = FlushRequest(f"run {number}", "ids", ids, batch_size=1, flush_max_counters=cut)
        self.thread = threading.Thread(target=self._run, name=f"run {number}", daemon=True)

    @contextmanager
    def call(self, call: str) -> Iterator[str]:
        """Make a call of the current thread: that of the run or of its settler."""
        beside = threading.current_thread().name.startswith("settler")
        with self._gate.call(f"{'settler' if beside else 'run'} {self.number}", call) as name:
            yield name

    def _run(self) -> None:
        try:
            with self._stores.ledger.keeping_connections() as kept:
                stores = replace(self._stores, ledger=kept)
                snapshot = drain.drain(stores, self._request)
                commit.bulk_upsert(stores, snapshot, aggregate(snapshot.readings))
        except (Died, MarkerMoved, PipelineRefused, PostgresUnavailable):
            pass  # errors that may end a run
        except BaseException as error:  # noqa: BLE001 - reported by the rehearsal
            self.unexpected = error


class HeldRedis(RedisStore):
    """Redis whose calls wait for the trace."""

    def __init__(self, client: Any, url: str, actor: Actor) -> None:
        super().__init__(client, url, PREFIX)
        self._actor = actor

    def begin(self, *arguments: Any) -> Any:
        """Wait, then call."""
        with self._actor.call("begin"):
            made, marker = super().begin(*arguments)
            self._check_history(marker)
            return made, marker

    def marker(self) -> Marker | None:
        """Wait, then call."""
        with self._actor.call("read marker"):
            if marker := super().marker():
                self._check_history(marker)
            return marker

    def _check_history(self, marker: Marker) -> None:
        """Run the check within the call: in the model, both are one step."""
        with psycopg.connect(self._actor.ledger_url, autocommit=True) as connection:
            marker_ownership.require_undiverged_history(connection, marker, "the model")

    def wait_until_reads_durable(self, *arguments: Any) -> Marker | None:
        """Wait, then call."""
        with self._actor.call("check"):
            return super().wait_until_reads_durable(*arguments)

    def read(self, pages: Iterable[Sequence[bytes]]) -> Readings:
        """Await each reply: a call that is sent before the last reply came is no single step of the model."""
        return self.validated((ids, self.values(ids)) for ids in pages)

    def values(self, ids: Sequence[bytes]) -> list[bytes | None]:
        """Wait, then call."""
        with self._actor.call(f"read {ids[0].decode()[1:]}"):
            return super().values(ids)

    def _send_settle_scripts(self, marker: Marker, batches: Any) -> list[list[Any]]:
        with self._actor.call("settle") as name:
            replies = super()._send_settle_scripts(marker, batches)
            if "twice" in name:
                super()._send_settle_scripts(marker, batches)
            return replies


class HeldLedger(Ledger):
    """PostgreSQL whose calls wait for the trace. `actors`: the actor of each connection."""

    actors: dict[int, Actor] = {}  # noqa: RUF012 - emptied by each rehearsal

    def __init__(self, url: str, actor: Actor, standby_wait: StandbyWait) -> None:
        super().__init__(url, standby_wait=standby_wait)
        self._actor = actor

    @contextmanager
    def connect(self, *, any_server: bool = False, new: bool = False) -> Iterator[psycopg.Connection]:
        """Record the actor of the connection."""
        with super().connect(any_server=any_server, new=new) as connection:
            self.actors[id(connection)] = self._actor
            yield connection

    def require_standbys(self, connection: psycopg.Connection) -> None:
        """The model makes no such call: its standby is always connected."""

    def wait_for_standbys(self, connection: psycopg.Connection, seq: int, flush_id: Any) -> None:
        """Wait, then let the standby of the model, which is the dump, have what this server has."""
        if not self.standby_wait.required:
            return
        with self._actor.call("standby"):
            if not ledger_reads.read_commit_state(connection, str(flush_id)).committed:
                raise MarkerMoved(f"PostgreSQL has lost flush {seq}")
            self._actor.replicate()

    def has_committed(self, flush_id: Any) -> bool:
        """Wait, then call, unless the model makes no such call."""
        if getattr(self._actor, "never_arrived", False):
            return super().has_committed(flush_id)
        with self._actor.call("find"):
            return super().has_committed(flush_id)


def _held(function: Any, name: str) -> Any:
    def call(connection: psycopg.Connection, *arguments: Any) -> Any:
        with HeldLedger.actors[id(connection)].call(name):
            return function(connection, *arguments)

    return call


def _held_transaction(function: Any) -> Any:
    def call(connection: psycopg.Connection, *arguments: Any) -> Any:
        actor = HeldLedger.actors[id(connection)]
        with actor.call("commit") as name:
            if name.endswith("never arrived"):
                actor.never_arrived = True  # type: ignore[attr-defined]  # resolved within the same step
                raise psycopg.OperationalError("the connection broke")
            done = function(connection, *arguments)
            if name.endswith("without a reply"):
                raise psycopg.OperationalError("the connection broke")
            return done

    return call


class Rehearsal:
    """One trace on empty real servers."""

    def __init__(self, servers: Servers, first: World) -> None:
        self.servers, self._first = servers, first
        self._gate, self._actors = Gate(), dict[int, Actor]()
        self._vods = len(first.sent)
        for vod, views in enumerate(first.sent):
            servers.client.set(f"{PREFIX}v{vod}", views)
        identity = servers.identity.key
        ((timeline,),) = servers.rows("SELECT viewer.timeline()")
        at: dict[Any, Any] = {"flush": 0, "batch": 0, "batches": 0, "epoch": "first", "ledger": identity, "format": 2}
        if first.redis.marker is not None:
            servers.client.hset(MARKER, mapping=at | {"timeline": timeline})
        self._copy = self._read_redis()
        self._dump: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}

    def play(self, path: list[tuple[Step, World]]) -> None:
        """Make every step. Raises AssertionError if the code makes another call than the model."""
        HeldLedger.actors.clear()
        with (
            patch.object(ledger, "last_flush", _held(ledger_reads.last_flush, "read ledger")),
            patch.object(settle, "read_batches_after", _held(ledger_reads.read_batches_after, "list")),
            patch.object(snapshot, "split_frame", _held(held_views.split_frame, "read counted")),
            patch.object(transaction, "commit_flush", _held_transaction(transaction.commit_flush)),
            patch.object(drain, "require_undiverged_history", lambda *_: None),
            patch.object(settle, "require_undiverged_history", lambda *_: None),
            patch.object(candidates, "READ_COUNT", 1),
            patch.object(counter_reader, "READ_COUNT", 1),
            patch.object(redis_store, "PIPELINE_SCRIPTS", 1),
            patch.object(drain, "DRAIN_TRIES", self._first.runs[0].tries),
            patch.object(commit, "SUPERSEDED_TRIES", self._first.runs[0].tries),
        ):
            try:
                for step, after in path:
                    self._make(step, after)
                for actor in self._actors.values():
                    actor.thread.join(SECONDS)
                    assert not actor.thread.is_alive(), f"run {actor.number} continues, the model has ended"
            finally:
                self._gate.kill(*(f"{kind} {n}" for n in self._actors for kind in ("run", "settler")))
                for actor in self._actors.values():
                    actor.thread.join(SECONDS)
                    if actor.unexpected is not None:
                        raise actor.unexpected

    def end(self) -> tuple[Any, ...]:
        """Return counters, marker, ledger, totals and held views of the servers."""
        counters, marker = self.servers.counters(), self.servers.marker()
        totals, held = self.servers.totals(), self.servers.held()
        rows = self.servers.rows("SELECT seq, batch, vod_ids[1], deltas[1] FROM viewer.flush_batch ORDER BY 1, 2")
        return (
            tuple(counters.get(f"v{vod}", 0) for vod in range(self._vods)),
            marker and tuple(marker)[:3],
            [(seq, batch, int(vod_id[1:]), delta) for seq, batch, vod_id, delta in rows],
            tuple(totals.get(f"v{vod}", 0) for vod in range(self._vods)),
            tuple(held[f"v{vod}"] for vod in range(self._vods)),
        )

    def _make(self, step: Step, after: World) -> None:
        kind, _, number = step.actor.partition(" ")
        if kind == "producer":
            self.servers.client.incr(f"{PREFIX}v{step.vod}")
        elif kind == "disaster":
            self._disaster(step.call)
        elif step.call == "dies":
            self._gate.kill(f"run {number}", f"settler {number}")
            self._actors[int(number)].thread.join(SECONDS)
        else:
            if int(number) not in self._actors:
                cut = after.runs[int(number)].cut
                actor = Actor(int(number), cut, self._vods, self.servers, self._gate, replicate=self._replicate)
                self._actors[int(number)] = actor
                actor.thread.start()
            call = step.call.rstrip("0123456789 ") if step.call.startswith("settle") else step.call
            self._gate.grant(step.actor, call)
            if call.endswith("never arrived"):  # in the model, the settler ends with its run
                self._gate.kill(f"settler {number}")

    def _disaster(self, kind: str) -> None:
        match kind:
            case "emptied":
                self.servers.client.flushall()
            case "copy":
                self._copy = self._read_redis()
            case "restored":
                counters, marker = self._copy
                with self.servers.client.pipeline() as pipe:
                    pipe.flushall()
                    for vod_id, views in counters.items():
                        pipe.set(PREFIX + vod_id, views)
                    if marker:
                        pipe.hset(MARKER, mapping=marker)
                    pipe.execute()
            case "dump":
                self._replicate()
            case _:
                self._roll_back()

    def _read_redis(self) -> tuple[dict[str, int], Any]:
        return self.servers.counters(), self.servers.client.hgetall(MARKER)

    def _replicate(self) -> None:
        self._dump = {table: self.servers.rows(f"SELECT * FROM viewer.{table}") for table in TABLES}

    def _roll_back(self) -> None:
        with psycopg.connect(self.servers.stores.ledger.url) as connection:
            connection.execute(f"TRUNCATE {', '.join(f'viewer.{table}' for table in TABLES)}")  # another file: timeline
            for table, rows in self._dump.items():
                for row in rows:
                    places = ", ".join(["%s"] * len(row))
                    connection.execute(f"INSERT INTO viewer.{table} VALUES ({places})", row)


def expected(world: World) -> tuple[Any, ...]:
    """Return counters, marker, ledger, totals and held views of the model."""
    marker = world.redis.marker
    rows = [(b.seq, b.number, b.vod, b.delta) for flush in world.postgres.ledger for b in flush.batches]
    postgres = world.postgres
    return world.redis.counters, marker and tuple(marker)[:3], rows, postgres.totals, postgres.held
