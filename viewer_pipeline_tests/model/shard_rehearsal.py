"""Drives the real flush of a real cluster along a trace of the model of shards, and compares the state of both."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from typing import Any, Self

import psycopg

from viewer_pipeline.flush.cluster_store import ClusterStore, as_cluster
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.marker import MARKER_FIELDS, NONE_MISSING, parse_marker
from viewer_pipeline.flush.standby_wait import StandbyWait
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.layout import slot_of_shard
from viewer_pipeline.stores.cluster_map import Address
from viewer_pipeline.stores.redis_durability_wait import Durability
from viewer_pipeline_tests.model.rehearsal import TABLES
from viewer_pipeline_tests.model.shard_actor import Actor, Scene, held_calls
from viewer_pipeline_tests.model.shard_values import NO_HOLD, Marker, Setting, World
from viewer_pipeline_tests.model.shards import successors
from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.cluster_world import ClusterWorld
from viewer_pipeline_tests.support.world import PREFIX

TAGS = (
    "bc"  # of the ids, for the slots of the two shards: at the first and at the second node, the home slot at the third
)
Path = Sequence[tuple[str, World]]
ShardKeys = tuple[dict[bytes, bytes], dict[str, bytes]]  # the marker, and the counters by key


class Names:
    """Which names the code has for what the model numbers: the same for the same, and another one for another."""

    def __init__(self) -> None:
        self._names = dict[Hashable, dict[Hashable, str]]()

    def number(self, kind: Hashable, expected: Hashable, name: str) -> Hashable:
        """Return the number of a name: the expected one, if either is new or both belong together."""
        names = self._names.setdefault(kind, {})
        for number, known in names.items():
            if known == name:
                return number
        if expected in names:
            return f"{name} in place of {names[expected]}"
        names[expected] = name
        return expected


class ShardRehearsal:
    """One trace on real servers. Use as a context manager: it begins and ends with two empty shards."""

    def __init__(self, servers: ClusterWorld, setting: Setting, first: World) -> None:
        self.servers, self.setting, self._first = servers, setting, first
        self._ids = [f"{vod}{{{TAGS[shard]}}}" for vod, shard in enumerate(setting.shard_of)]
        self._layout = as_cluster(servers.stores.redis).layout
        self._shards = [self._layout.shard_of(f"{PREFIX}{{{tag}}}".encode()) for tag in TAGS]
        self._keys = [self._layout.marker_key(shard) for shard in self._shards]
        self._home = self._layout.names.marker
        self._sources, self._target = servers.cluster.nodes[: len(TAGS)], servers.cluster.nodes[len(TAGS)]
        self._places = list[ClusterNode](self._sources)  # of the shards now
        self._scene = Scene({key: n for n, key in enumerate(self._keys)}, self._replicate, self._dump_now)
        self._actors = dict[int, Actor]()
        self._names, self._timelines = Names(), list[str]()
        ledger = Ledger(servers.stores.ledger.url, standby_wait=StandbyWait(int(setting.standby)))
        store = servers.stores.redis
        durability = Durability(replicas=int(setting.wait))
        self._stores = Stores(ClusterStore(store._client, store.url, PREFIX, durability=durability), ledger)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Make the first state."""
        self._postgres = self._open.enter_context(psycopg.connect(self._stores.ledger.url, autocommit=True))
        self._read_timeline()
        redis_store, first = as_cluster(self._stores.redis), self._first
        redis_store.begin("first", LastFlush(0, 0, None, self._timelines[0]), self.servers.identity)
        redis_store.set_prepared(self._timelines[0], 0)
        self._open.enter_context(held_calls(self._shards))
        self._set_markers()
        if first.postgres.ledger:
            self._flush_lost()
        if first.shards[0].marker is None:
            self._delete(*self._keys)
        for vod, views in enumerate(first.counters):
            self.servers.client.set(PREFIX + self._ids[vod], views)
        self._copy = self._read_shard(first.copy.shard) if first.copy else ({}, {})
        self._dump_now()
        return self

    def __exit__(self, *_: object) -> None:
        """End all runs, and empty both servers."""
        try:
            self._scene.gate.kill(*self._actors)
            for actor in self._actors.values():
                actor.join()
        finally:
            for number, node in enumerate(self._places):
                self._delete_all(number)
                if self._is_open(number) or node is not self._sources[number]:
                    self._return(number)
            self.servers.client.delete(self._home, self._layout.names.subscriber, self._layout.names.changed)
            self._postgres.execute("; ".join(f"DELETE FROM viewer.{table}" for table in TABLES))
            self._open.close()

    def play(self, path: Path) -> None:
        """Make every step, and compare the state after each. Raises AssertionError."""
        self._compare(self._first)
        for number, (label, after) in enumerate(path):
            try:
                self._make(label)
                self._compare(after)
            except AssertionError as error:
                error.add_note(f"after step {number + 1} of {len(path)}: {label}")
                raise

    # --- steps ---

    def _make(self, label: str) -> None:  # noqa: C901, PLR0912 - a table of steps
        match label.split(" "):
            case ["run", number, "dies"]:
                self._scene.gate.kill(int(number))
                self._actors[int(number)].join()
            case ["run", number, *words]:
                self._call(int(number), " ".join(words).partition(":")[0])
            case ["INCR", vod]:
                self.servers.client.incr(PREFIX + self._ids[int(vod)])
            case ["shard", number, "begins", "to", "move"]:
                self._begin_to_move(int(number), self._target)
            case ["key", key, "of", "shard", number, "moves"]:
                self._move_key(int(number), int(key))
            case ["shard", number, "has", "moved"]:
                self._end_move(int(number), self._target)
            case ["copy", "of", "shard", number]:
                self._copy = self._read_shard(int(number))
            case ["shard", number, "is", "emptied"]:
                self._delete_all(int(number))
            case ["shard", number, "falls", "back"]:
                self._fall_back(int(number))
            case ["the", "target", "of", "shard", number, "keeps", "keys", *kept]:
                self._lose_keys(int(number), re.findall(r"\d", " ".join(kept)))
            case ["dump"]:
                self._dump_now()
            case ["PostgreSQL", "is", "rolled", "back"]:
                self._roll_back()
            case _:
                raise AssertionError(f"no such step: {label}")

    def _call(self, number: int, call: str) -> None:
        if number not in self._actors:
            run = self._first.runs[number]
            mode: Any = "sweep" if len(run.shards) == len(TAGS) else "ids"
            ids = tuple(
                vod_id for vod_id, shard in zip(self._ids, self.setting.shard_of, strict=True) if shard in run.shards
            )
            request = FlushRequest(f"run {number}", mode, ids, batch_size=1, flush_max_counters=run.cut)
            self._actors[number] = Actor(number, self._scene, self._stores, request)
            self._actors[number].start()
        self._scene.gate.grant(number, call)
        if not self._scene.gate.offers(number):
            self._actors[number].join()

    def _fall_back(self, number: int) -> None:
        marker, counters = self._copy
        self._delete_all(number)
        client: Any = self.servers.client
        for key, views in counters.items():
            client.set(key, views)
        if marker:
            client.hset(self._keys[number], mapping=marker)
        if self.setting.wait:  # another process: connections break
            self._places[number].command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def _lose_keys(self, number: int, kept: Sequence[str]) -> None:
        for key, is_kept in zip(self._keys_of(number), kept, strict=True):
            if is_kept == "0":
                with self._target.client.pipeline(transaction=False) as pipe:
                    pipe.execute_command("ASKING")  # type: ignore[no-untyped-call]
                    pipe.delete(key)
                    pipe.execute()

    def _roll_back(self) -> None:
        self._postgres.execute(f"TRUNCATE {', '.join(f'viewer.{table}' for table in TABLES)}")  # another file: timeline
        for table, rows in self._dump.items():
            for row in rows:
                places = ", ".join(["%s"] * len(row))
                self._postgres.execute(f"INSERT INTO viewer.{table} VALUES ({places})", row)
        self._read_timeline()

    def _dump_now(self) -> None:
        self._dump = {table: self._rows(f"SELECT * FROM viewer.{table}") for table in TABLES}

    def _replicate(self, address: Address) -> None:
        """A replica of this node has all that the node has. In the trace, it is the copy of a shard."""
        for number, node in enumerate(self._places):
            if node.port == address[1] and number in self.setting.events_at:
                self._copy = self._read_shard(number)

    def _flush_lost(self) -> None:
        """Count the views of the struck shard, before its marker is lost."""
        struck = self.setting.events_at[0]
        ids = [self._ids[vod] for vod in self.setting.vods(struck)]
        for vod_id in ids:
            self.servers.client.set(PREFIX + vod_id, 1)
        request = FlushRequest("first", "ids", tuple(ids), batch_size=1)
        actor = Actor(-1, self._scene, self._stores, request)
        actor.start()
        for call in ("reads the ledger", "reads the floor", f"drains {struck}", "lists batches", "commits"):
            self._scene.gate.grant(-1, call)
        for _ in ids:
            self._scene.gate.grant(-1, f"settles {struck}")
        actor.join()

    # --- slots ---

    def _begin_to_move(self, number: int, target: ClusterNode) -> None:
        slot, source = slot_of_shard(self._shards[number]), self._places[number]
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.node_id())
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.node_id())

    def _move_key(self, number: int, key: int) -> None:
        migrate: Any = self._places[number].client.migrate
        migrate("127.0.0.1", self._target.port, [self._keys_of(number)[key]], 0, 20_000)

    def _end_move(self, number: int, target: ClusterNode) -> None:
        """Inform the primaries alone, and wait for no other node: no client connects to those."""
        target_id, source = target.node_id(), self._places[number]
        for node in dict.fromkeys([target, source, *self._sources, self._target]):
            node.command("CLUSTER", "SETSLOT", slot_of_shard(self._shards[number]), "NODE", target_id)
        self._places[number] = target

    def _is_open(self, number: int) -> bool:
        slot = str(slot_of_shard(self._shards[number]))
        return any(slot in text for text in self._places[number].own_record().open_slots)

    def _return(self, number: int) -> None:
        slot, source = slot_of_shard(self._shards[number]), self._sources[number]
        for node in (self._target, source):
            node.command("CLUSTER", "SETSLOT", slot, "STABLE")
        if self._places[number] is not source:
            self._begin_to_move(number, source)
            self._end_move(number, source)

    # --- state ---

    def _compare(self, world: World) -> None:
        expected, actual = self._expected(world), self._actual(world)
        assert actual == expected
        for number in self._actors:
            assert self._scene.gate.offers(number) == self._calls_of(world, number), f"run {number} makes other calls"

    def _calls_of(self, world: World, number: int) -> set[str]:
        """Return the calls that a run can make next, in the model; those that may be sent twice, with that."""
        run = f"run {number} "
        labels = (label for label, _ in successors(world, self.setting, frozenset()) if label.startswith(run))
        calls = {label.removeprefix(run).partition(":")[0].removesuffix(" twice") for label in labels} - {"dies"}
        return calls | {f"{call} twice" for call in calls if call.startswith(("settles", "clears"))}

    def _expected(self, world: World) -> dict[str, Any]:
        postgres = world.postgres
        return {
            "markers": [shard.marker for shard in world.shards],
            "counters": world.counters,
            "ledger": [
                (f.seq, f.timeline, f.held, [(b.number, b.shard, b.vod, b.delta, b.epoch) for b in f.batches])
                for f in postgres.ledger
            ],
            "totals": postgres.totals,
            "held": postgres.held,
            "home": (world.prepared, world.floor, world.holds),
        }

    def _actual(self, world: World) -> dict[str, Any]:
        counters = [int(self._read("GET", PREFIX + vod_id) or 0) for vod_id in self._ids]
        ledger = list[Any]()  # first: it names flushes and epochs
        batches = self._rows(BATCHES)
        for number, (seq, flush_id, mode) in enumerate(self._rows(FLUSHES)):
            flush = world.postgres.ledger[number] if number < len(world.postgres.ledger) else None
            rows = list[Any]()
            for at, (_, batch, shard, vod_ids, deltas, epoch) in enumerate(row for row in batches if row[0] == seq):
                n, known = self._shards.index(shard), flush.batches[at : at + 1] if flush else ()
                number_of_epoch = self._names.number(("epoch", n), known[0].epoch if known else None, epoch)
                rows.append((batch, n, int(vod_ids[0][0]), deltas[0], number_of_epoch))
            timeline = self._flush_timeline(seq, flush.timeline if flush else None, flush_id)
            ledger.append((seq, timeline, mode == "hold", rows))
        totals, held = self.servers_totals()
        return {
            "markers": [self._marker(n, shard.marker) for n, shard in enumerate(world.shards)],
            "counters": tuple(counters),
            "ledger": ledger,
            "totals": totals,
            "held": held,
            "home": self._home_state(world),
        }

    def servers_totals(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return totals and held views, by VOD."""
        totals = dict(self._rows("SELECT vod_id, view_count - baseline FROM viewer.vod_view_counts"))
        held = dict(self._rows("SELECT vod_id, sum(views)::bigint FROM viewer.held GROUP BY vod_id"))
        return tuple(totals.get(i, 0) for i in self._ids), tuple(held.get(i, 0) for i in self._ids)

    def _marker(self, number: int, expected: Marker | None) -> Any:
        at = parse_marker(self._read("HMGET", self._keys[number], *MARKER_FIELDS))
        if at is None:
            return None
        known, names = expected or Marker(), self._names
        epoch = names.number(("epoch", number), known.epoch, at.epoch)
        hold = names.number(("hold", number), known.hold, at.hold) if at.hold else NO_HOLD
        of = self._flush_timeline(at.seq, known.of, at.flush_id) if at.flush_id else known.of
        missing = at.missing_flushes if at.missing_flushes != NONE_MISSING else (0, 0)
        return (at.seq, at.batch, epoch, self._timeline(at.timeline), of, hold, missing)

    def _flush_timeline(self, seq: int, expected: int | None, flush_id: str) -> Any:
        """Return the timeline in which a flush was committed, as the model has it: the code has an id for both."""
        identity = self._names.number("flush", (seq, expected), flush_id)
        return identity[1] if isinstance(identity, tuple) and identity[0] == seq else identity

    def _home_state(self, world: World) -> tuple[Any, ...]:
        home = as_cluster(self._stores.redis)
        timeline, floor = home.prepared()
        held, records = list[Any](), home.holds()
        for n, shard in enumerate(self._shards):
            if shard not in records:
                held.append(None)
                continue
            known, (epoch, hold) = world.holds[n] or (None, None), records[shard].split(" ", 1)
            numbers = (
                self._names.number((kind, n), a, b)
                for kind, a, b in zip(("epoch", "hold"), known, (epoch, hold), strict=True)
            )
            held.append(tuple(numbers))
        return self._timeline(timeline), floor, tuple(held)

    def _timeline(self, name: str) -> Any:
        return self._timelines.index(name) if name in self._timelines else name

    def _read_timeline(self) -> None:
        ((timeline,),) = self._rows("SELECT viewer.timeline()")
        self._timelines.append(timeline)

    def _set_markers(self) -> None:
        at: dict[Any, Any] = {"flush": 0, "batch": 0, "batches": 0, "epoch": "first", "format": 2}
        at |= {"ledger": self.servers.identity.key, "timeline": self._timelines[0]}
        for key in self._keys:
            self.servers.client.hset(key, mapping=at)

    def _keys_of(self, number: int) -> list[str]:
        return [self._keys[number], *(PREFIX + self._ids[vod] for vod in self.setting.vods(number))]

    def _read_shard(self, number: int) -> ShardKeys:
        client: Any = self.servers.client
        counters = {key: value for key in self._keys_of(number)[1:] if (value := client.get(key)) is not None}
        return client.hgetall(self._keys[number]), counters

    def _delete_all(self, number: int) -> None:
        self._delete(*self._keys_of(number))

    def _delete(self, *keys: str) -> None:
        for key in keys:  # while the slot migrates, they may be at two nodes
            self.servers.client.delete(key)

    def _read(self, *words: str) -> Any:
        execute: Any = self.servers.client.execute_command
        return execute(*words)

    def _rows(self, query: Any) -> list[Any]:
        return self._postgres.execute(query).fetchall()


FLUSHES = "SELECT seq, flush_id::text, mode FROM viewer.flush ORDER BY seq"
BATCHES = "SELECT seq, batch, shard, vod_ids, deltas, epoch FROM viewer.flush_batch ORDER BY seq, batch"
