"""A pipeline's Redis in cluster mode, without the markers: its nodes, counters in all slots, and the changed set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from datetime import datetime
from typing import Any, Self

import redis
from redis.exceptions import MovedError

from viewer_pipeline.flush.counter_reader import READ_COUNT, SCAN_COUNT, CounterPage
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.sweep_position import CURSOR_BITS
from viewer_pipeline.layout import slot_of_shard
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.cluster_map import Address, NoOwner, OwnSlots, cluster_map_of
from viewer_pipeline.stores.cluster_nodes import LOST, REDIRECTIONS, ClusterNodes, Command, Reply
from viewer_pipeline.stores.non_reconnecting_redis import non_reconnecting_client
from viewer_pipeline.stores.redis import Script, as_text, redis_errors
from viewer_pipeline.streams import Stream

REMOVE_ANNOUNCED = Script.load("flush/remove_announced")
FOREVER = 2**53  # ms
CURSOR_MASK = 2**CURSOR_BITS - 1


class ClusterCounters(RedisStore):
    """The nodes of a cluster, and the counters and the changed set of one pipeline there."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._nodes: ClusterNodes | None = None
        self.unscanned = dict[Address, str]()  # nodes that did not answer to SCAN, with the reason; shared by copies

    def of_stream(self, stream: Stream) -> Self:
        """Return the same cluster, for the flushes of one stream, over connections of its own."""
        store = super().of_stream(stream)
        store._nodes, store.unscanned = None, {}  # noqa: SLF001 - a copy of this store
        return store

    @property
    def nodes(self) -> ClusterNodes:
        """Connections to all nodes. They are made again when they break."""
        if self._nodes is None:
            self._nodes = ClusterNodes(cluster_map_of(self._client))
        return self._nodes

    @contextmanager
    def on_one_connection(self, *, only_names: bool = False) -> Iterator[Self]:
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
            require_values([self.nodes.run_at(node, ("PING",))[0] for node in self.nodes.map.nodes()])

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
            require_values([reply for reply in replies if not str(reply).startswith("WRONGTYPE")])

    def subscriber_counts(self, *channels: str) -> list[int]:
        """Return the number of subscribers of each channel, at all nodes that answer: each knows its own only."""
        totals = [0] * len(channels)
        for reply in self._at_each_node("PUBSUB", "NUMSUB", *channels):
            if not isinstance(reply, redis.RedisError):
                totals = [total + int(count) for total, count in zip(totals, reply[1::2], strict=True)]
        return totals

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
            replies = require_values(self.nodes.run_following(commands))
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
            require_values([reply])

    def types(self, ids: Iterable[bytes]) -> dict[bytes, str]:
        """As on a single Redis, without those that no node tells now: what is at other nodes is not held up."""
        types = dict[bytes, str]()
        for page in chunks(ids, READ_COUNT):
            for raw, reply in zip(page, self._replies_of_each_counter("TYPE", page), strict=True):
                if not isinstance(reply, (*LOST, *REDIRECTIONS)):
                    with redis_errors(self.url):
                        types[raw] = as_text(require_values([reply])[0])
        return types

    def _of_each_counter(self, command: str, ids: Sequence[bytes]) -> list[Any]:
        with redis_errors(self.url):
            return require_values(self._replies_of_each_counter(command, ids))

    def _replies_of_each_counter(self, command: str, ids: Sequence[bytes]) -> list[Reply]:
        keys = [self.prefix + raw for raw in ids]
        commands = [Command(slot_of_shard(self.layout.shard_of(key)), (command, key)) for key in keys]
        with redis_errors(self.url):
            return self.nodes.run_following(commands)

    def count_keys(self) -> int:
        """Return the number of keys of all nodes that answer, whatever their names."""
        return sum(int(count) for count in self._at_each_node("DBSIZE") if not isinstance(count, redis.RedisError))

    def _at_each_node(self, *command: str) -> list[Any]:
        """Return the reply of each node; of one that does not answer, the error."""
        with redis_errors(self.url):
            replies = [self.nodes.run_at(node, command)[0] for node in self.nodes.map.nodes()]
            require_values([reply for reply in replies if not isinstance(reply, LOST)])
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
            for shard in self.layout.shards
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
            ((after, keys),) = require_values([reply])
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


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def require_values(replies: Sequence[Reply]) -> list[Any]:
    """Return the replies; raise the first that is an error."""
    for reply in replies:
        if isinstance(reply, redis.RedisError):
            raise reply
    return list(replies)
