"""Commands to the nodes of a cluster, each by the slot of its keys, over one connection to each node.

redis-py's own pipeline of a cluster refuses EVALSHA, and follows redirections, which no read of a run may (rule R12).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, TryAgainError
from redis.retry import Retry

from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.cluster_map import NO_HOST, Address, ClusterMap, NoOwner, connection_to
from viewer_pipeline.stores.redis import Script

Reply = Any  # of Redis; or the exception that came in its place
SENT_AHEAD = 64  # commands to a node whose replies are received later
REDIRECTIONS = (MovedError, AskError, TryAgainError, ClusterDownError)
LOST = (redis.ConnectionError, redis.TimeoutError)
FOLLOW_TRIES, FOLLOW_SECONDS = 8, 0.05  # the wait before the second attempt; it doubles, to 3 s at the last


class Command(NamedTuple):
    """A command whose keys are all in one slot."""

    slot: int
    words: tuple[str | bytes | int, ...]


class ScriptCall(NamedTuple):
    """A call of a script whose keys are all in one slot."""

    slot: int
    keys: Sequence[str | bytes]
    arguments: Sequence[str | bytes | int]


class ClusterNodes:
    """One connection to each node. `once`: it is never made again, so that all it says is of one life of that node."""

    def __init__(self, cluster_map: ClusterMap, *, once: bool = False, extra_seconds: float = 0) -> None:
        """`extra_seconds` are added to the time-out of a reply."""
        self.map, self._once = cluster_map, once
        options = dict(cluster_map.options) | {"retry": Retry(NoBackoff(), 0)}
        options["socket_timeout"] += extra_seconds
        self._options = options
        self._connections = dict[Address, AbstractConnection]()
        self._broken = dict[Address, redis.RedisError]()  # with `once`
        self._loaded = set[tuple[Address, str]]()
        self._lock = threading.Lock()

    @classmethod
    @contextmanager
    def opened(cls, cluster_map: ClusterMap, *, once: bool = False, extra_seconds: float = 0) -> Iterator[Self]:
        """Open connections when they are needed, and close them at the end."""
        nodes = cls(cluster_map, once=once, extra_seconds=extra_seconds)
        try:
            yield nodes
        finally:
            nodes.close()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for connection in self._connections.values():
                connection.disconnect()  # type: ignore[no-untyped-call]  # so in redis-py
            self._connections.clear()

    def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Send each command to the owner of its slot, and return the replies, in order. No redirection is followed."""
        return self._run_at_owners([command.slot for command in commands], [command.words for command in commands])

    def run_script(self, script: Script, calls: Sequence[ScriptCall]) -> list[Reply]:
        """Run a script for each call at the owner of its slot. No redirection is followed."""
        words = [("EVALSHA", script.sha, len(keys), *keys, *arguments) for _, keys, arguments in calls]
        return self._run_at_owners([call.slot for call in calls], words, script)

    def run_script_following(
        self, script: Script, calls: Sequence[ScriptCall], tries: int | None = None
    ) -> list[Reply]:
        """As `run_script`; what was redirected, or got lost, is sent again. Only for scripts that may be repeated.

        `tries`: in place of FOLLOW_TRIES.
        """
        replies, wait = self.run_script(script, calls), FOLLOW_SECONDS
        repeated = REDIRECTIONS if self._once else (*REDIRECTIONS, *LOST)
        for _ in range((tries or FOLLOW_TRIES) - 1):
            left = [at for at, reply in enumerate(replies) if isinstance(reply, repeated)]
            if not left:
                break
            migrating = [at for at in left if type(replies[at]) is AskError]
            for at in migrating:
                replies[at] = self._run_at_target(script, calls[at], replies[at])
            rest = sorted(set(left) - set(migrating))
            if rest:
                self._refresh(replies[rest[0]])
                for at, reply in zip(rest, self.run_script(script, [calls[at] for at in rest]), strict=True):
                    replies[at] = reply
            if any(isinstance(replies[at], repeated) for at in left):
                time.sleep(wait)
                wait *= 2
        return replies

    def run_following(self, commands: Sequence[Command]) -> list[Reply]:
        """As `run`; reads that were redirected are sent again once, with a new map."""
        replies = self.run(commands)
        left = [at for at, reply in enumerate(replies) if isinstance(reply, (*REDIRECTIONS, *LOST))]
        if left:
            self._refresh(replies[left[0]])
            for at, reply in zip(left, self.run([commands[at] for at in left]), strict=True):
                replies[at] = reply
        return replies

    def run_at(self, address: Address, *commands: tuple[str | bytes | int, ...]) -> list[Reply]:
        """Send commands to a node, whatever their keys, and return the replies."""
        with self._lock:
            return self._run_at_nodes({address: list(range(len(commands)))}, commands)

    def _refresh(self, reply: Reply) -> None:
        moved = (reply.host, reply.port) if type(reply) is MovedError and reply.host not in NO_HOST else None
        try:
            self.map.refresh(moved)
        except redis.RedisError:
            return  # the next attempt fails in the same way

    def _run_at_target(self, script: Script, call: ScriptCall, reply: AskError) -> Reply:
        """Run one call at the node to which its slot is migrating."""
        eval_ = ("EVAL", script.source, len(call.keys), *call.keys, *call.arguments)
        owner = self.map.owners()[call.slot]
        host = owner[0] if owner is not None and reply.host in NO_HOST else reply.host
        admitted, reply = self.run_at((host, reply.port), ("ASKING",), eval_)
        return admitted if isinstance(admitted, redis.ResponseError) else reply

    def _run_at_owners(
        self, slots: Sequence[int], words: Sequence[tuple[str | bytes | int, ...]], script: Script | None = None
    ) -> list[Reply]:
        by_node, replies = dict[Address, list[int]](), list[Reply]([None] * len(slots))
        owners = self.map.owners()
        for at, slot in enumerate(slots):
            owner = owners[slot]
            if owner is None:
                replies[at] = NoOwner(f"no node of the cluster serves slot {slot}")
            else:
                by_node.setdefault(owner, []).append(at)
        with self._lock:
            sent = self._run_at_nodes(by_node, words, script)
            for positions in by_node.values():
                for at in positions:
                    replies[at] = sent[at]
        return replies

    def _run_at_nodes(
        self,
        by_node: dict[Address, list[int]],
        words: Sequence[tuple[str | bytes | int, ...]],
        script: Script | None = None,
    ) -> list[Reply]:
        """Send the commands at these positions to each node, SENT_AHEAD at a time, so that all nodes work at once."""
        try:
            return self._send_and_receive(by_node, words, script)
        except BaseException:  # a cancellation, for example: replies may be left that the next command would receive
            for address in by_node:
                self._break(address, redis.ConnectionError("the commands before were interrupted"))
            raise

    def _send_and_receive(
        self,
        by_node: dict[Address, list[int]],
        words: Sequence[tuple[str | bytes | int, ...]],
        script: Script | None,
    ) -> list[Reply]:
        replies = list[Reply]([None] * len(words))
        rounds = {address: list(chunks(positions, SENT_AHEAD)) for address, positions in by_node.items()}
        failed = dict[Address, redis.RedisError]()
        for number in range(max(map(len, rounds.values()), default=0)):
            sent = list[tuple[Address, list[int]]]()
            for address, pages in rounds.items():
                if number >= len(pages):
                    continue
                page = list(pages[number])
                try:
                    if address in failed:
                        raise failed[address]
                    self._send(address, [words[at] for at in page], script)
                    sent.append((address, page))
                except redis.RedisError as error:
                    failed[address] = self._break(address, error)
                    for at in page:
                        replies[at] = error
            for address, page in sent:
                if (lost := self._receive(address, page, replies)) is not None:
                    failed[address] = lost
        if script is not None:
            self._load_and_repeat(by_node, words, script, replies)
        return replies

    def _send(self, address: Address, words: Sequence[tuple[str | bytes | int, ...]], script: Script | None) -> None:
        connection: Any = self._connection(address)
        if script is not None and (address, script.sha) not in self._loaded:
            connection.send_command("SCRIPT", "LOAD", script.source, check_health=False)
            connection.read_response()
            self._loaded.add((address, script.sha))
        packed = b"".join([hiredis.pack_command(command) for command in words])  # type: ignore[arg-type]  # any length
        connection.send_packed_command([packed], check_health=False)

    def _receive(self, address: Address, page: Sequence[int], replies: list[Reply]) -> redis.RedisError | None:
        """Receive the replies to a page; return the error with which the connection broke, if it did."""
        connection: Any = self._connections[address]
        for position, at in enumerate(page):
            try:
                replies[at] = connection.read_response()
            except redis.ResponseError as error:
                replies[at] = error
            except redis.RedisError as error:
                for rest in page[position:]:
                    replies[rest] = error
                return self._break(address, error)
        return None

    def _load_and_repeat(
        self,
        by_node: dict[Address, list[int]],
        words: Sequence[tuple[str | bytes | int, ...]],
        script: Script,
        replies: list[Reply],
    ) -> None:
        """Repeat what a node refused because it lacks the script: it was restarted, or its scripts were flushed."""
        for address, positions in by_node.items():
            for at in positions:
                if isinstance(replies[at], NoScriptError):
                    eval_ = ("EVAL", script.source, *words[at][2:])
                    replies[at] = self._run_at_nodes({address: [0]}, [eval_])[0]

    def _connection(self, address: Address) -> AbstractConnection:
        if (connection := self._connections.get(address)) is not None:
            return connection
        if self._once and address in self._broken:
            raise redis.ConnectionError(f"the connection to {address[0]}:{address[1]} broke during the read")
        connection = connection_to(address, self.map.connection_class, self._options)
        connection.connect()  # type: ignore[no-untyped-call]
        self._connections[address] = connection
        return connection

    def _break(self, address: Address, error: redis.RedisError) -> redis.RedisError:
        self._broken[address] = error
        self._loaded = {(node, sha) for node, sha in self._loaded if node != address}
        if (connection := self._connections.pop(address, None)) is not None:
            connection.disconnect()  # type: ignore[no-untyped-call]
        return error
