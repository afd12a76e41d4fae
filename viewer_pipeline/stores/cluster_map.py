"""Which node of a cluster serves which slot: as one of its nodes says, and again whenever a node redirects."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import ClusterDownError, MovedError
from redis.retry import Retry

from viewer_pipeline.layout import HOME_SLOT
from viewer_pipeline.streams import SLOTS

MAP_SECONDS = 1.0  # time-out of each node; then the next one is tried
_CLUSTER_MAP = "cluster_map"

Address = tuple[str, int]  # host and port
LINE_FIELDS = 8  # of CLUSTER NODES, before the slots
# In CLUSTER INFO. Also of all nodes, if slots without a primary forbid all others (cluster-require-full-coverage).
CUT_OFF = b"cluster_state:fail"
NO_HOST = ("", "?")  # in place of a host: a node that announces none


class NoOwner(redis.ConnectionError):
    """No node serves a slot, as far as any node says. It may come back."""


class OwnSlots(NamedTuple):
    """What a node says of its own slots: their number, whether one migrates, and a name for them and their epoch."""

    slots: int
    migrate: bool
    name: str

    @classmethod
    def parse(cls, nodes: str) -> Self | None:
        """Return it from the reply to CLUSTER NODES; None if no line is that of the node itself."""
        for fields in map(str.split, nodes.splitlines()):
            if len(fields) >= LINE_FIELDS and "myself" in fields[2].split(","):
                ranges = fields[LINE_FIELDS:]
                owned = [text.partition("-") for text in ranges if not text.startswith("[")]
                count = sum(int(last or first) - int(first) + 1 for first, _, last in owned)
                return cls(count, len(owned) < len(ranges), " ".join([fields[0], fields[6], *ranges]))
        return None


class _NodeMap(NamedTuple):
    """What one node knows. Of two, the one with the greater first fields is better.

    A node that has no contact to most primaries knows an old map, in which it may serve slots that have failed over.
    (Its epoch does not show that: replicas without contact raise it with each attempt at an election.)
    """

    has_contact: bool
    served: int  # slots
    owners: list[Address | None]


class ClusterMap:
    """The owner of each slot. Shared by all connections of a client; thread-safe."""

    def __init__(
        self, seeds: Sequence[Address], connection_class: type[AbstractConnection], options: Mapping[str, Any]
    ) -> None:
        """`seeds`: some nodes of the cluster, or its configuration endpoint. `options`: of the connections to them."""
        self.connection_class, self.options = connection_class, dict(options)
        waits = {name: min(options[name], MAP_SECONDS) for name in ("socket_timeout", "socket_connect_timeout")}
        self._options = {**options, **waits, "retry": Retry(NoBackoff(), 0)}
        self._seeds, self._owners, self._nodes = list(seeds), list[Address | None](), list[Address]()
        self._lock = threading.Lock()

    def owner(self, slot: int) -> Address:
        """Return the node that serves a slot. Raises NoOwner, and the errors of the driver."""
        owners = self._owners or self.refresh()
        if (owner := owners[slot]) is None and (owner := self.refresh()[slot]) is None:
            raise NoOwner(f"no node of the cluster serves slot {slot}")
        return owner

    def owners(self) -> Sequence[Address | None]:
        """Return the owner of each slot, as it was known last."""
        return self._owners or self.refresh()

    def nodes(self) -> list[Address]:
        """Return all nodes that serve slots, in a fixed order."""
        self.owners()
        return self._nodes

    def refresh(self, hint: Address | None = None) -> Sequence[Address | None]:
        """Query the nodes until one that has contact to the cluster knows an owner for every slot; else the best reply.

        `hint`: queried first, because a redirection named it. Raises the last error if no node answers.
        """
        with self._lock:
            known = dict.fromkeys([*([hint] if hint else []), *self._nodes, *self._seeds])
            best, error = None, redis.RedisError("no node of the cluster is known")
            for address in known:
                try:
                    reply = self._query(address)
                except redis.RedisError as raised:
                    error = raised
                    continue
                if best is None or reply[:2] > best[:2]:
                    best = reply
                if best[:2] == (True, SLOTS):
                    break
            if best is None:
                raise error
            self._owners, self._nodes = best.owners, sorted({owner for owner in best.owners if owner is not None})
            return self._owners

    def _query(self, address: Address) -> _NodeMap:
        """Return the owner of each slot as this node knows it."""
        connection: Any = connection_to(address, self.connection_class, self._options)
        try:
            connection.connect()
            connection.send_packed_command(connection.pack_commands([("CLUSTER", "SLOTS"), ("CLUSTER", "INFO")]))
            owners = _owners(connection.read_response(), address)
            has_contact = CUT_OFF not in _cluster_info(connection)
        finally:
            connection.disconnect()
        return _NodeMap(has_contact, SLOTS - owners.count(None), owners)


def connection_to(
    address: Address, connection_class: type[AbstractConnection], options: Mapping[str, Any]
) -> AbstractConnection:
    """Return a connection to a node, not connected yet."""
    make: Any = connection_class
    connection: AbstractConnection = make(host=address[0], port=address[1], **options)
    return connection


def _cluster_info(connection: Any) -> bytes:
    """Return the reply to CLUSTER INFO; empty where a proxy or an ACL refuses it."""
    try:
        return bytes(connection.read_response())
    except redis.ResponseError:
        return b""


def _owners(ranges: Iterable[Sequence[Any]], queried: Address) -> list[Address | None]:
    """Return the owner of each slot from the reply to CLUSTER SLOTS.

    A node without the preferred kind of endpoint has that of its metadata, where there is one: its IP address if it has
    no host name. If none is given, the host is that of the node that was queried.
    """
    owners: list[Address | None] = [None] * SLOTS
    for first, last, (host, port, *more), *_ in ranges:
        metadata = more[1] if len(more) > 1 else []
        others = dict(zip(metadata[::2], metadata[1::2], strict=True))
        names = [name.decode() for name in (host, others.get(b"ip")) if name]
        owner = (next((name for name in names if name not in NO_HOST), queried[0]), int(port))
        owners[first : last + 1] = [owner] * (last + 1 - first)
    return owners


class _HomeConnection(AbstractConnection):
    """Connects to the node that serves the keys of the pipeline which belong to no shard, wherever that is now."""

    def __init__(self, *args: Any, cluster_map: ClusterMap, **kwargs: Any) -> None:
        self._map = cluster_map
        self.host, self.port = "", 0
        super().__init__(*args, **kwargs)

    def _connect(self) -> Any:
        self.host, self.port = self._map.owner(HOME_SLOT)
        try:
            return super()._connect()  # type: ignore[no-untyped-call, safe-super]  # so in redis-py
        except OSError:
            self._map.refresh()  # for the next attempt: another node may serve the slot by now
            raise

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)
        except (MovedError, ClusterDownError) as error:
            # Nothing was executed: as if the connection had not been made. A node that is cut off serves no slot.
            self.disconnect()  # type: ignore[no-untyped-call]
            hint, reason = None, str(error)
            if isinstance(error, MovedError):
                hint, reason = (error.host, error.port), f"the slot has moved: {error}"
            self._map.refresh(hint)
            raise redis.ConnectionError(reason) from error
        except (redis.ConnectionError, redis.TimeoutError):
            self._map.refresh()  # it may have failed over
            raise


def home_client(seeds: Sequence[Address], connection_class: Any, options: dict[str, Any]) -> redis.Redis:
    """Return a client of the node that serves the keys of the pipeline which belong to no shard."""
    cluster_map = ClusterMap(seeds, connection_class, options)
    return redis.Redis.from_pool(
        redis.ConnectionPool(_home_class(connection_class), cluster_map=cluster_map, **options)
    )


def cluster_map_of(client: redis.Redis) -> ClusterMap:
    """Return the map of such a client."""
    cluster_map: ClusterMap = client.connection_pool.connection_kwargs[_CLUSTER_MAP]
    return cluster_map


def share_cluster_map(known_by: redis.Redis, client: redis.Redis) -> None:
    """Let new connections of a client lead to the nodes that another one knows. Does nothing without a cluster."""
    if _CLUSTER_MAP in known_by.connection_pool.connection_kwargs:
        client.connection_pool.connection_kwargs[_CLUSTER_MAP] = cluster_map_of(known_by)


@functools.cache
def _home_class(base: type[AbstractConnection]) -> type[AbstractConnection]:
    return type(f"Home{base.__name__}", (_HomeConnection, base), {})
