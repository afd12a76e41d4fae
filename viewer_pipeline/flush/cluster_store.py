"""One pipeline's Redis in cluster mode: each shard has a marker of its own, and all else is in the home slot.

What belongs to no shard (changed set, lease, registry, position of a sweep) is used as on a single Redis, over a client
of the node that serves the home slot. The marker of the home slot stands for the pipeline: its ledger and its epoch.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

import redis
from redis.exceptions import MovedError

from viewer_pipeline.errors import MarkerUnreadable, NotDurable, RedisFailed
from viewer_pipeline.flush.counter_reader import READ_COUNT, SCAN_COUNT, CounterPage
from viewer_pipeline.flush.ledger_identity import LedgerIdentity
from viewer_pipeline.flush.ledger_row_types import Batch, Flush, FlushRow, LastFlush
from viewer_pipeline.flush.marker import MARKER_FIELDS, Marker, parse_marker
from viewer_pipeline.flush.pipeline_refusal import refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.sweep_position import CURSOR_BITS, SweepPart
from viewer_pipeline.layout import SHARDS, slot_of_shard
from viewer_pipeline.logs import event
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.cluster_map import Address, NoOwner, OwnSlots, cluster_map_of
from viewer_pipeline.stores.cluster_nodes import LOST, REDIRECTIONS, ClusterNodes, Command, Reply, ScriptCall
from viewer_pipeline.stores.non_reconnecting_redis import non_reconnecting_client
from viewer_pipeline.stores.redis import Script, as_ours, as_text, redis_errors

log = logging.getLogger("viewer_pipeline.cluster")

DRAIN = Script.load("flush/claim", "flush/marker", "flush/drain")
SETTLE_SHARD = Script.load("flush/one_slot", "flush/marker", "flush/settle")
PREPARED = Script.load("flush/prepared")
REMOVE_ANNOUNCED, CLEAR_HOLD = Script.load("flush/remove_announced"), Script.load("flush/clear_hold")
HOLD_OF = b"hold:"  # fields of the home marker, by shard
HOLD_FIELD = MARKER_FIELDS.index("hold")
DRAIN_COUNT = 500  # counters of a shard in one call
PAGE_SIZE = 2_000  # settling scripts in memory
FOREVER = 2**53  # ms
CURSOR_MASK = 2**CURSOR_BITS - 1


class BeginOfDrain(NamedTuple):
    """The run, and the end of the ledger at which markers are made that are missing, with this epoch."""

    run_id: str
    last: LastFlush
    ledger: LedgerIdentity  # as the registry has it
    epoch: str


class ShardReading(NamedTuple):
    """What a script has read in one shard at one moment. `raw_values[i]`: of `ids[i]`."""

    marker: Marker
    is_new: bool  # whether the script made the marker
    node: Address  # that was read
    ids: list[bytes]
    raw_values: list[bytes | None]


class DrainedShards(NamedTuple):
    """The shards that answered, and why the others did not."""

    readings: dict[int, ShardReading]
    excluded: dict[int, str]


class SettledShards(NamedTuple):
    """The result of settling: where each marker stands now.

    `refused`: shards whose marker was elsewhere than expected, with that marker (None: gone). `unreached`: shards that
    did not answer, with the reason.
    """

    markers: dict[int, Marker]
    refused: dict[int, Marker | None]
    unreached: dict[int, str]
    already: int
    drift: int
    drifted: list[bytes]


class ClusterStore(RedisStore):
    """The counters, the changed set and the markers of one pipeline in a Redis Cluster."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._nodes: ClusterNodes | None = None
        self.unscanned = dict[Address, str]()  # nodes that did not answer to SCAN, with the reason; shared by copies

    @property
    def nodes(self) -> ClusterNodes:
        """Connections to all nodes. They are made again when they break."""
        if self._nodes is None:
            self._nodes = ClusterNodes(cluster_map_of(self._client))
        return self._nodes

    @contextmanager
    def on_one_connection(self, *, only_names: bool = False) -> Iterator[ClusterStore]:
        """Open the same store with a new map of the slots, over connections to the nodes that are never made again."""
        with redis_errors(self.url):
            cluster_map_of(self._client).refresh()
        seconds, slots = self.durability.seconds, cluster_map_of(self._client)
        with (
            non_reconnecting_client(self._client, seconds) as client,
            ClusterNodes.opened(slots, once=True, extra_seconds=seconds) as nodes,
        ):
            if not only_names:
                self.durability.require_support(client, self.url)
            store = copy(self)
            store._client, store._nodes = client, nodes  # noqa: SLF001 - a copy of this store
            yield store

    def require_all_nodes(self) -> None:
        """Check that every slot is served by a node that answers. Raises RedisUnavailable."""
        with redis_errors(self.url):
            slots = self.nodes.map.refresh()
            if missing := slots.count(None):
                raise NoOwner(f"no node of the cluster serves {missing} of {len(slots)} slots")
            _values([self.nodes.run_at(node, ("PING",))[0] for node in self.nodes.map.nodes()])

    def leave_server(self) -> None:
        """Close idle connections, and read again which node serves which slot."""
        super().leave_server()
        with suppress(redis.RedisError):
            self.nodes.map.refresh()

    @contextmanager
    def node_clients(self) -> Iterator[dict[str, redis.Redis]]:
        """Open a client of each node that serves slots, by host and port."""
        cluster_map = self.nodes.map
        with redis_errors(self.url):
            nodes = cluster_map.nodes()
        with ExitStack() as stack:
            yield {
                f"{host}:{port}": stack.enter_context(
                    redis.Redis.from_pool(
                        redis.ConnectionPool(cluster_map.connection_class, host=host, port=port, **cluster_map.options)
                    )
                )
                for host, port in nodes
            }

    def unserved_slots(self) -> int:
        """Return how many slots no node serves, as far as any node knew it last."""
        return self.nodes.map.owners().count(None)

    def require_writes(self) -> None:
        """As on a single Redis, at each node: on the key of a marker there, which no sorted set has."""
        first = {owner: slot for slot, owner in reversed(list(enumerate(self.nodes.map.owners()))) if owner}
        commands = [
            Command(slot, ("ZADD", self.layout.marker_key(slot + 1), "XX", 0, "")) for slot in sorted(first.values())
        ]
        replies = self.nodes.run_following(commands)
        with redis_errors(self.url):
            _values([reply for reply in replies if not str(reply).startswith("WRONGTYPE")])

    def subscriber_counts(self, *channels: str) -> list[int]:
        """Return the number of subscribers of each channel, at all nodes that answer: each knows its own only."""
        totals = [0] * len(channels)
        for reply in self._at_each_node("PUBSUB", "NUMSUB", *channels):
            if not isinstance(reply, redis.RedisError):
                totals = [total + int(count) for total, count in zip(totals, reply[1::2], strict=True)]
        return totals

    # The registry, and the markers.

    def delete_shard_markers(self) -> None:
        """Delete the markers of all shards. Raises RedisUnavailable if one is out of reach; repeat it then."""
        commands = [Command(slot_of_shard(shard), ("DEL", self.layout.marker_key(shard))) for shard in SHARDS]
        with redis_errors(self.url):
            _values(self.nodes.run_following(commands))

    def drain_shards(
        self, ids: Mapping[int, Sequence[bytes]], begin: BeginOfDrain, seen_timelines: Mapping[int, str]
    ) -> DrainedShards:
        """Read the counters of these ids by shard, each with its marker as of the same moment (rule R12).

        `seen_timelines`: of markers, as they were seen before the end of the ledger was read. Follows no redirection: a
        shard that does not answer, or whose marker moved between two calls, is excluded (rule R13). Raises
        PipelineRefused, MarkerUnreadable.
        """
        run_id, last, ledger, epoch = begin
        calls, shards, pages = list[ScriptCall](), list[int](), list[tuple[bytes, ...]]()
        at: list[str | bytes | int] = [
            run_id,
            last.seq,
            last.batches,
            str(last.flush_id or ""),
            epoch,
            ledger.key,
            ledger.place,
            last.timeline,
        ]
        for shard, raws in ids.items():
            seen = seen_timelines.get(shard)
            arguments = [*at, "" if seen is None else f"={seen}"]
            marker_key = self.layout.marker_key(shard)
            for page in chunks(raws, DRAIN_COUNT) if raws else [()]:
                keys: list[str | bytes] = [marker_key, *(self.prefix + raw for raw in page)]
                calls.append(ScriptCall(slot_of_shard(shard), keys, arguments))
                shards.append(shard)
                pages.append(page)
        readings, excluded = dict[int, ShardReading](), dict[int, str]()
        owners = self.nodes.map.owners()
        for shard, page, reply in zip(shards, pages, self.nodes.run_script(DRAIN, calls), strict=True):
            if isinstance(reply, redis.RedisError):
                excluded[shard] = _exclusion(reply, self.url)
                continue
            made, *fields = reply
            if made < 0:
                raise refusal(self.prefix_text, ledger, *fields)
            if (reading := readings.get(shard)) is None:
                reading = self._begin_reading(shard, fields, owners, is_new=bool(made))
            elif reading.marker != parse_marker(fields[: len(MARKER_FIELDS)]):
                excluded[shard] = "another run settled it during the read"
            reading.ids.extend(page)
            reading.raw_values.extend(fields[len(MARKER_FIELDS) :])
            readings[shard] = reading
        for shard in excluded:
            readings.pop(shard, None)
        return DrainedShards(readings, excluded)

    def _begin_reading(
        self, shard: int, fields: Sequence[bytes | None], owners: Sequence[Address | None], *, is_new: bool
    ) -> ShardReading:
        marker = parse_marker(fields[: len(MARKER_FIELDS)])
        if marker is None:
            key = self.layout.marker_key(shard)
            raise MarkerUnreadable(f"{key}: {fields!r}; delete the key if nothing else uses it")
        node = owners[slot_of_shard(shard)]
        assert node is not None  # it has replied
        return ShardReading(marker, is_new, node, [], [])

    def prepared(self) -> tuple[str, int]:
        """Return the timeline for which all shards have a marker, and the highest number that any of them had then."""
        timeline, floor = self.hash_fields(self.names.marker, ("prepared", "floor"))
        return as_text(timeline), int(floor or 0)

    def set_prepared(self, timeline: str, floor: int) -> None:
        """Record that all shards have a marker with this timeline, and the highest number that any of them has."""
        self.run_script(PREPARED, [self.names.marker], [timeline, floor])

    def find_unsettled(self, newest: FlushRow, flushes: Sequence[Flush]) -> list[str]:  # noqa: ARG002 - of one marker
        """Return the shards whose marker stands before their last batch of these flushes, in words."""
        last = {batch.shard: batch for flush in flushes for batch in flush.batches}
        failing = list[str]()
        for shard, reply in self._query_markers(last).items():
            if isinstance(reply, redis.RedisError):
                failing.append(f"shard {shard}: {_exclusion(reply, self.url)}")
                continue
            marker = parse_marker(reply)
            if marker is None or marker[:2] < (last[shard].seq, last[shard].number):
                failing.append(
                    f"shard {shard}: marker {marker}, flush {last[shard].seq} has batch {last[shard].number}"
                )
        return failing

    def shard_markers(self, shards: Iterable[int] = SHARDS) -> dict[int, Marker | None]:
        """Return the markers of these shards; None where there is none. Raises RedisUnavailable."""
        replies = self._query_markers(shards)
        with redis_errors(self.url):
            _values(list(replies.values()))
        return {shard: parse_marker(fields) for shard, fields in replies.items()}

    def readable_markers(self, shards: Iterable[int]) -> dict[int, Marker]:
        """Return the markers of these shards, as far as there are any and their nodes answer."""
        markers = dict[int, Marker]()
        for shard, reply in self._query_markers(shards).items():
            if not isinstance(reply, redis.RedisError) and (marker := parse_marker(reply)) is not None:
                markers[shard] = marker
        return markers

    def _query_markers(self, shards: Iterable[int]) -> dict[int, Reply]:
        wanted = list(shards)
        commands = [
            Command(slot_of_shard(shard), ("HMGET", self.layout.marker_key(shard), *MARKER_FIELDS)) for shard in wanted
        ]
        return dict(zip(wanted, self.nodes.run_following(commands), strict=True))

    def wait_until_shards_durable(self, readings: Mapping[int, ShardReading]) -> dict[int, str]:
        """Wait at each node that was read from until what was read there is durable (rule R7).

        Returns the shards of nodes whose connection broke since, with the reason: nobody knows whether what was read
        there will last. Raises NotDurable on a time-out.
        """
        if not self.durability.required:
            return {}
        broken = {node: self._wait_at(node) for node in {reading.node for reading in readings.values()}}
        return {shard: reason for shard, reading in readings.items() if (reason := broken[reading.node])}

    def _wait_at(self, node: Address) -> str:
        """Return why the connection broke; empty once all is durable that was read over it."""
        for command, enough in self.durability.commands():
            (reply,) = self.nodes.run_at(node, command)
            if isinstance(reply, LOST):
                return str(reply)
            with redis_errors(self.url):
                (reply,) = _values([reply])
            if (count := reply[0] if isinstance(reply, list) else reply) < enough:
                words = " ".join(map(str, command))
                raise NotDurable(f"{words}: {count} of {enough} acknowledged at {node[0]}:{node[1]}")
        return ""

    def settle_shards(self, markers: Mapping[int, Marker], batches: Sequence[Batch]) -> SettledShards:
        """Subtract these batches, of each shard the first of which follows its marker, each once and in order.

        Follows redirections, and repeats what got lost: the script is safe to repeat.
        """
        result = SettledShards(dict(markers), {}, {}, 0, 0, [])
        already = drift = 0
        by_shard = dict[int, list[Batch]]()
        for batch in batches:
            by_shard.setdefault(batch.shard, []).append(batch)
        rounds = max(map(len, by_shard.values()), default=0)
        for number in range(rounds):  # a batch of a shard is sent once the one before it is settled (rule R5)
            due = [
                listed[number]
                for shard, listed in by_shard.items()
                if number < len(listed) and shard not in result.refused and shard not in result.unreached
            ]
            for page in chunks(due, PAGE_SIZE):
                calls = [self._settle_call(result.markers[batch.shard], batch) for batch in page]
                for batch, reply in zip(page, self.nodes.run_script_following(SETTLE_SHARD, calls), strict=True):
                    if isinstance(reply, (*LOST, *REDIRECTIONS)):
                        result.unreached[batch.shard] = _exclusion(reply, self.url)
                        continue
                    if isinstance(reply, redis.RedisError):
                        raise as_ours(reply, self.url) from reply
                    outcome, missing, *rest = reply
                    if outcome == -1:
                        result.refused[batch.shard] = parse_marker(rest[: len(MARKER_FIELDS)])
                        continue
                    moved, hold = result.markers[batch.shard].at(batch), as_text(rest[HOLD_FIELD])
                    result.markers[batch.shard] = moved if hold == moved.hold else moved._replace(hold=hold)
                    already += outcome == 0
                    drift += int(missing)
                    result.drifted.extend(rest[len(MARKER_FIELDS) :])
        return result._replace(already=already, drift=drift)

    def _settle_call(self, marker: Marker, batch: Batch) -> ScriptCall:
        keys = [self.layout.marker_key(batch.shard), *(self.prefix_text + vod_id for vod_id in batch.vod_ids)]
        return ScriptCall(slot_of_shard(batch.shard), keys, self._settle_arguments(marker, batch))

    def holds(self) -> dict[int, str]:
        """Return, for each shard whose marker was seen with `hold`, its epoch and that, separated by a blank."""
        with redis_errors(self.url):
            fields: Any = self._client.hgetall(self.names.marker)
        return {
            int(name.removeprefix(HOLD_OF)): as_text(value)
            for name, value in fields.items()
            if name.startswith(HOLD_OF)
        }

    def has_hold(self, marker: Marker | None) -> bool:  # noqa: ARG002 - of the home slot
        """Whether the marker of any shard was seen with `hold`."""
        return bool(self.holds())

    def record_holds(self, markers: Mapping[int, Marker]) -> None:
        """Record which of these markers have `hold`, so that the end of a sweep that begins later removes it."""
        fields: Any = {
            HOLD_OF + str(shard).encode(): hold_of(marker) for shard, marker in markers.items() if marker.hold
        }
        if fields:
            with redis_errors(self.url):
                self._client.hset(self.names.marker, mapping=fields)

    def _clear_holds(self, ledger: str, holds: Mapping[int, str]) -> None:
        calls = [
            ScriptCall(slot_of_shard(shard), [self.layout.marker_key(shard)], [ledger, *seen.split(" ", 1)])
            for shard, seen in holds.items()
        ]
        for shard, reply in zip(holds, self.nodes.run_script_following(CLEAR_HOLD, calls), strict=True):
            if isinstance(reply, redis.RedisError):
                log.warning(event("hold_not_cleared", shard=shard, reason=reply))
                continue
            with redis_errors(self.url):
                self._client.hdel(self.names.marker, HOLD_OF + str(shard).encode())

    def advance_sweep(self, part: SweepPart) -> bool:
        """As on a single Redis; after the last part, remove `hold` of each marker that had it when the pass began."""
        holds = self.holds() if part.is_last and part.begin.hold else {}
        stored = super().advance_sweep(part._replace(begin=part.begin._replace(hold="")))
        if holds and holds_digest(holds) == part.begin.hold:
            self._clear_holds(part.begin.ledger, holds)
        return stored

    # Counters and the changed set.

    def values(self, ids: Sequence[bytes]) -> list[bytes | None]:
        """Return the counters of these ids; None where a key is missing or no string. Not as of one moment."""
        by_shard = dict[int, list[int]]()
        for at, raw in enumerate(ids):
            by_shard.setdefault(self.layout.shard_of(self.prefix + raw), []).append(at)
        commands = [
            Command(slot_of_shard(shard), ("MGET", *(self.prefix + ids[at] for at in positions)))
            for shard, positions in by_shard.items()
        ]
        with redis_errors(self.url):
            replies = _values(self.nodes.run_following(commands))
        values: list[bytes | None] = [None] * len(ids)
        for positions, reply in zip(by_shard.values(), replies, strict=True):
            for at, value in zip(positions, reply, strict=True):
                values[at] = value
        return values

    def add_views(self, vod_id: str, views: int) -> None:
        """Raise a counter as a producer does, at the node of its slot. Not to be repeated after a connection broke."""
        key = self.prefix_text + vod_id
        command = Command(slot_of_shard(self.layout.shard_of(key.encode())), ("INCRBY", key, views))
        with redis_errors(self.url):
            (reply,) = self.nodes.run([command])
            if isinstance(reply, MovedError):  # nothing was executed
                self.nodes.map.refresh((reply.host, reply.port))
                (reply,) = self.nodes.run([command])
            _values([reply])

    def _of_each_counter(self, command: str, ids: Sequence[bytes]) -> list[Any]:
        keys = [self.prefix + raw for raw in ids]
        commands = [Command(slot_of_shard(self.layout.shard_of(key)), (command, key)) for key in keys]
        with redis_errors(self.url):
            return _values(self.nodes.run_following(commands))

    def count_keys(self) -> int:
        """Return the number of keys of all nodes that answer, whatever their names."""
        return sum(int(count) for count in self._at_each_node("DBSIZE") if not isinstance(count, redis.RedisError))

    def _at_each_node(self, *command: str) -> list[Any]:
        """Return the reply of each node; of one that does not answer, the error."""
        with redis_errors(self.url):
            replies = [self.nodes.run_at(node, command)[0] for node in self.nodes.map.nodes()]
            _values([reply for reply in replies if not isinstance(reply, LOST)])
        return replies

    def server_run_id(self) -> str:
        """Return a name for this set of processes and the slots of each; empty if a node does not tell its own.

        `cluster/<nodes>/<digest>`. A position is of one such set: else keys that migrate may be at a node that was
        scanned before.
        """
        digest = hashlib.sha256(repr(self.nodes.map.owners()).encode())
        for info in self._at_each_node("INFO", "server"):
            if isinstance(info, redis.RedisError):
                continue  # the pass is not complete without it
            fields = dict(line.split(b":", 1) for line in bytes(info).splitlines() if b":" in line)
            if not (run_id := fields.get(b"run_id")):
                return ""
            digest.update(run_id)
        return f"cluster/{len(self.nodes.map.nodes())}/{digest.hexdigest()[:32]}"

    def slots_at_nodes(self) -> tuple[str, str]:
        """Return a name for what each node says of its own slots; and why counters may migrate now, empty if not.

        What SCAN returns of all nodes is complete only if nothing migrates before and after, and the name stays the
        same. A slot that moves gives its new node a greater configuration epoch, so it does not become the same again.
        """
        digest, owners, obstacle = hashlib.sha256(), self.nodes.map.owners(), ""
        slots = Counter(owner for owner in owners if owner)
        if owners.count(None):
            obstacle = "some slots of the cluster have no primary"
        for node, reply in zip(self.nodes.map.nodes(), self._at_each_node("CLUSTER", "NODES"), strict=True):
            place = f"{node[0]}:{node[1]}"
            if isinstance(reply, redis.RedisError):
                obstacle = f"{place} did not answer"
                continue
            own = OwnSlots.parse(as_text(reply))
            if own is None:
                obstacle = f"{place} does not name its own slots"
                continue
            digest.update(own.name.encode())
            if own.migrate:
                obstacle = f"a slot of {place} migrates"
            elif own.slots != slots[node]:
                obstacle = f"slots of {place} have moved"
        return digest.hexdigest(), obstacle

    def unscanned_shards(self) -> dict[int, str]:
        """Return the shards of nodes that did not answer to SCAN, each with the reason."""
        if not self.unscanned:
            return {}
        owners = self.nodes.map.owners()
        return {
            shard: self.unscanned[owner]
            for shard in SHARDS
            if (owner := owners[slot_of_shard(shard)]) is not None and owner in self.unscanned
        }

    def scan_page(self, cursor: int, count: int) -> CounterPage:
        """Return the counters among about `count` keys of one node after `cursor`, which may be of another cluster."""
        before = self.now()
        after, keys = self._scan(cursor, count)
        seconds = max(0.0, (self.now() - before).total_seconds())
        ids = [key[len(self.prefix) :] for key in keys]
        return CounterPage(after, ids, self.values(ids) if ids else [], seconds)

    def scan_ahead(self, cursor: int, limit: int) -> Iterator[tuple[int, list[bytes]]]:
        """Yield, per SCAN call over the keys after `cursor`, its own cursor and the raw ids of the counters in it."""
        cut, more = len(self.prefix), True
        while more:
            cursor, keys = self._scan(cursor, SCAN_COUNT)
            limit -= len(keys)
            more = cursor != 0 and limit > 0
            yield cursor, [key[cut:] for key in keys]

    def _scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """Scan a page of one node after another. The cursor is that of the node, and above it the node's number."""
        nodes = self.nodes.map.nodes()
        number = cursor >> CURSOR_BITS
        if number >= len(nodes):
            number, cursor = 0, 0
        command = ("SCAN", cursor & CURSOR_MASK, "MATCH", self._pattern, "COUNT", count)
        (reply,) = self.nodes.run_at(nodes[number], command)
        if isinstance(reply, LOST):
            self.unscanned[nodes[number]] = str(reply)
            reply = (0, [])
        with redis_errors(self.url):
            ((after, keys),) = _values([reply])
        after = int(after)
        if after == 0:
            number = (number + 1) % len(nodes)
        return (number << CURSOR_BITS) + after, keys

    def _announcement(self) -> tuple[int, dict[str, bool]]:
        """Return the time (ms) of the home node; a later announcement replaces an earlier one."""
        return _milliseconds(self.now()), {"gt": True}

    def remove_from_changed_set_anyway(self, ids: Iterable[bytes]) -> None:
        """Remove ids from the changed set, whenever they were announced."""
        for page in chunks(ids, READ_COUNT):
            self.run_script(REMOVE_ANNOUNCED, [self.names.changed], [FOREVER, *page])

    def remove_announced_until(self, read_at: datetime, ids: Iterable[bytes | str]) -> None:
        """Remove ids from the changed set that were announced before this time of the home node, and not since."""
        for page in chunks(ids, READ_COUNT):
            self.run_script(REMOVE_ANNOUNCED, [self.names.changed], [_milliseconds(read_at), *page])


def as_cluster(store: RedisStore) -> ClusterStore:
    """Return the store of a cluster as such. Called only where the layout is that of a cluster."""
    if not isinstance(store, ClusterStore):
        raise TypeError("a single Redis has no shards")
    return store


def hold_of(marker: Marker) -> str:
    """Return the epoch and `hold` of a marker, separated by a blank."""
    return f"{marker.epoch} {marker.hold}"


def holds_digest(holds: Mapping[int, str]) -> str:
    """Return a name for the `hold` of all shards; empty if none has it."""
    return hashlib.sha256(repr(sorted(holds.items())).encode()).hexdigest()[:32] if holds else ""


def new_epoch() -> str:
    """Return a name for markers that are made now."""
    return uuid4().hex


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _values(replies: Sequence[Reply]) -> list[Any]:
    """Return the replies; raise the first that is an error."""
    for reply in replies:
        if isinstance(reply, redis.RedisError):
            raise reply
    return list(replies)


def _exclusion(error: redis.RedisError, url: str) -> str:
    """Return why a shard is left to the next run. Raises what no later run would overcome."""
    ours = as_ours(error, url)
    if not isinstance(error, (*LOST, *REDIRECTIONS)) and isinstance(ours, RedisFailed):
        raise ours from error
    return str(ours)
