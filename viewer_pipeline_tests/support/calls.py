"""Every call to Redis and PostgreSQL, as an object that can be counted, delayed, cut off, or be the last.

Both drivers are wrapped where all their traffic passes: redis-py where a connection sends and reads, psycopg where
a connection waits for the server. So new calls in the code are intercepted without being listed here.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import traceback
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from unittest.mock import patch

import hiredis
import psycopg
import redis
from psycopg.pq import TransactionStatus
from redis.connection import AbstractConnection

import viewer_pipeline
from viewer_pipeline.flush import cluster_counters, cluster_store, redis_store
from viewer_pipeline.ingest import subscriber_scripts
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.stores.redis import Script, connect

SCRIPTS = {
    text.encode(): name
    for module in (redis_store, cluster_counters, cluster_store, subscriber_scripts)
    for name, script in vars(module).items()
    if isinstance(script, Script)
    for text in (script.sha, script.source)
}


def _headline(statement: str) -> str:
    """Return the first line of a statement: the comment with its purpose."""
    return statement.partition("\n")[0]


PACKAGE = Path(viewer_pipeline.__file__).parent
MODULES = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in PACKAGE.rglob("*.sql")]
STATEMENTS = {_headline(query): name for module in MODULES for name, query in named_queries(module).items()}
HANDSHAKE = ("HELLO", "PING", "CLIENT", "AUTH", "SELECT")


@dataclass
class Call:
    """A call that is about to be made: `run` makes it and returns the reply of the server."""

    server: Literal["redis", "postgres"]
    name: str
    connection: redis.connection.AbstractConnection | psycopg.Connection | None
    run: Callable[[], Any]
    parts: int = 1  # commands that are sent together, as in a pipeline
    run_parts: Callable[[int], Any] | None = None  # make only this many of them
    private: bool = False  # no other process can observe it: a connect, a handshake, an empty commit

    def __str__(self) -> str:
        return f"{self.server} {self.name}"


class Watcher(Protocol):
    """Receives every call. Returns the reply, its own or that of `call.run`."""

    def __call__(self, call: Call) -> Any:
        """Make the call or replace it."""


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Pass every call of this process to the watcher, on the thread that makes it."""
    with ExitStack() as stack:
        for owner, name, wrapped in (
            (redis.connection.Connection, "_connect", _redis_connect(watcher)),
            (AbstractConnection, "send_packed_command", _redis_send(watcher)),
            (AbstractConnection, "read_response", _redis_read()),
            (AbstractConnection, "disconnect", _redis_disconnect()),
            (psycopg.Connection, "connect", _postgres_connect(watcher)),
            (psycopg.Connection, "wait", _postgres_wait(watcher)),
        ):
            stack.enter_context(patch.object(owner, name, wrapped))
        yield


# --- redis-py: replies are read as soon as a command is sent, and returned when the client reads them -----------------


# As they are before they are wrapped; redis-py does not say their types.
_send: Callable[..., None] = AbstractConnection.send_packed_command
_read: Callable[..., Any] = AbstractConnection.read_response
_disconnect: Callable[..., None] = AbstractConnection.disconnect
_tcp: Callable[..., Any] = redis.connection.Connection._connect


def _replies(connection: Any) -> deque[Any]:
    replies: deque[Any] = connection.__dict__.setdefault("replies_read", deque())
    return replies


def _redis_connect(watcher: Watcher) -> Callable[..., Any]:
    def wrapped(self: redis.connection.Connection) -> Any:
        return watcher(Call("redis", "connect", self, lambda: _tcp(self), private=True))

    return wrapped


def _redis_send(watcher: Watcher) -> Callable[..., None]:
    def wrapped(self: Any, command: Any, check_health: bool = True) -> None:
        if self._sock is None:
            self.connect_check_health(check_health=False)
        commands = _unpacked(b"".join(command) if isinstance(command, (list, tuple)) else command)

        def run_parts(number: int) -> None:
            packed = [piece for command in commands[:number] for piece in self._command_packer.pack(*command)]
            _send(self, packed, check_health)
            _replies(self).extend([_try_to_read(self) for _ in range(number)])

        name = _name_of(commands)
        private = name.startswith(HANDSHAKE)
        watcher(Call("redis", name, self, lambda: run_parts(len(commands)), len(commands), run_parts, private))

    return wrapped


def _try_to_read(connection: Any) -> Any:
    try:
        return _read(connection)
    except (redis.RedisError, OSError) as error:
        return error


def _redis_read() -> Callable[..., Any]:
    def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        if not _replies(self):
            return _read(self, *arguments, **options)
        reply = _replies(self).popleft()
        if isinstance(reply, Exception):
            raise reply
        return reply

    return wrapped


def _redis_disconnect() -> Callable[..., None]:
    def wrapped(self: Any, *arguments: Any, **options: Any) -> None:
        _replies(self).clear()
        _disconnect(self, *arguments, **options)

    return wrapped


def _unpacked(packed: bytes | str) -> list[list[bytes]]:
    reader = hiredis.Reader()
    reader.feed(packed)
    commands = []
    while (command := reader.gets()) is not False:
        commands.append(command)
    return commands


def _name_of(commands: list[list[bytes]]) -> str:
    names = [_name_of_command(command) for command in commands]
    return names[0] if len(names) == 1 else f"pipeline [{', '.join(names)}]"


def _name_of_command(command: list[bytes]) -> str:
    name = command[0].decode()
    if name in ("EVALSHA", "EVAL"):
        return f"{name} {SCRIPTS.get(command[1], '?').lower()}"
    return f"{name} {command[1].decode()}" if name in ("CLIENT", "SCRIPT") and len(command) > 1 else name


class PoolPerThread(redis.ConnectionPool):
    """A pool for each thread name, so that the calls of a thread do not depend on the speed of the others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._options = options
        self._pools: dict[str, redis.ConnectionPool] = {}

    def _mine(self) -> redis.ConnectionPool:
        return self._pools.setdefault(role(), redis.ConnectionPool(**self._options))

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        """Return a connection of this thread."""
        return self._mine().get_connection(*arguments, **options)

    def release(self, connection: Any) -> None:
        """Take back a connection of this thread."""
        self._mine().release(connection)

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections of all threads."""
        for pool in self._pools.values():
            pool.disconnect(inuse_connections)


def client_of_threads(url: str, **options: Any) -> redis.Redis:
    """Return our client, with a connection for each of the threads that use it; `options` replace some of its own."""
    with connect(url) as client:
        pool = client.connection_pool
        arguments = pool.connection_kwargs | options
        return redis.Redis.from_pool(PoolPerThread(connection_class=pool.connection_class, **arguments))


# --- psycopg ----------------------------------------------------------------------------------------------------------

_open: Any = psycopg.Connection.connect.__func__  # type: ignore[attr-defined]  # of the class
_wait = psycopg.Connection.wait
IDLE_ENDS = ("_commit_gen", "_rollback_gen")  # of a connection; a transaction's are called _exit_gen


def _postgres_connect(watcher: Watcher) -> Any:
    def wrapped(kind: type[psycopg.Connection], *arguments: Any, **options: Any) -> Any:
        return watcher(Call("postgres", "connect", None, lambda: _open(kind, *arguments, **options), private=True))

    return classmethod(wrapped)


def _postgres_wait(watcher: Watcher) -> Callable[..., Any]:
    def wrapped(self: psycopg.Connection, work: Any, *arguments: Any, **options: Any) -> Any:
        idle = self.pgconn.transaction_status == TransactionStatus.IDLE
        inner = _inside(work)
        private = idle and inner.__name__ in IDLE_ENDS
        run = lambda: _wait(self, work, *arguments, **options)  # noqa: E731 - one line for one call
        return watcher(Call("postgres", _name_of_work(inner), self, run, private=private))

    return wrapped


def _inside(work: Any) -> Any:
    """Return psycopg's own generator; BoundedConnection wraps it."""
    return work.gi_frame.f_locals["gen"] if work.__name__ == "_bounded" else work


def _name_of_work(work: Any) -> str:
    known = work.gi_frame.f_locals if getattr(work, "gi_frame", None) is not None else {}
    match work.__name__:
        case "_enter_gen":
            return "BEGIN"
        case "_exit_gen":
            return "COMMIT" if known.get("exc_type") is None else "ROLLBACK"
        case "_execute_gen" | "_start_copy_gen" as name:
            query = known.get("query") or known.get("statement") or name
            text = query if isinstance(query, str) else query.as_string()  # composed of the user's names
            return STATEMENTS.get(_headline(text), text)
        case name:
            return str(name).strip("_")


# --- points at which a process may end --------------------------------------------------------------------------------


class Point(NamedTuple):
    """The nth call of a role (counted from 0), and how much of it reaches the server: None, all, or some parts."""

    role: str
    nth: int
    call: str
    sent: int  # 0: it dies before the call; else this many parts were executed, and no reply was read

    def __str__(self) -> str:
        fate = "before" if self.sent == 0 else f"after {self.sent} parts of"
        return f"{self.role} {self.nth} {fate} {self.call}"


def role() -> str:
    """Return the role of the current thread: "main", or the name of its pool."""
    thread = threading.current_thread()
    return "main" if thread is threading.main_thread() else thread.name.rpartition("_")[0] or thread.name


@dataclass
class Recorder:
    """Makes every call and records it: role, call, and the number of points within it at which the process may die."""

    calls: list[tuple[str, str, int]] = field(default_factory=list)

    def __call__(self, call: Call) -> Any:
        """Record the call and make it."""
        # No other process observes a private call, so dying before and after it are the same.
        self.calls.append((role(), str(call), 0 if call.private else call.parts))
        return call.run()

    def points(self) -> list[Point]:
        """Return every point at which the process that made these calls may die: before the first, and after each part.

        Dying before another call leaves the servers as dying after the call that was made last.
        """
        numbers: dict[str, int] = defaultdict(int)
        points = list[Point]()
        for thread_role, name, parts in self.calls:
            first = 1 if points else 0
            points += [Point(thread_role, numbers[thread_role], name, sent) for sent in range(first, parts + 1)]
            numbers[thread_role] += 1
        return points


@dataclass
class Killer:
    """Makes every call up to a point, and kills the process there."""

    point: Point
    numbers: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def __call__(self, call: Call) -> Any:
        """Make the call, unless it is the last."""
        current = role()
        nth = self.numbers[current]
        self.numbers[current] += 1
        if (current, nth) != (self.point.role, self.point.nth):
            return call.run()
        if str(call) != self.point.call:
            raise AssertionError(f"call {nth} of {current} is {call}, not {self.point.call}: the runs are not the same")
        try:
            if 0 < self.point.sent < call.parts and call.run_parts is not None:
                call.run_parts(self.point.sent)
            elif self.point.sent:
                call.run()
        finally:  # also if the reply is an error
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()  # nothing runs until the signal arrives


class Fork(NamedTuple):
    """A fork of this process, and the file in which it leaves its traceback."""

    pid: int
    report: Path


def fork(do: Callable[[], object], report: Path) -> Fork:
    """Run it in a fork of this process, which has imported everything. It must open its own connections."""
    report.unlink(missing_ok=True)
    with warnings.catch_warnings():
        # Python 3.12 warns where there are other threads, e.g. those of numpy: none holds a lock that the child needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            do()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - reported by the parent
            report.write_text(traceback.format_exc(), encoding="utf-8")
        finally:
            os._exit(1)
    return Fork(pid, report)


def joined(child: Fork) -> int:
    """Wait for it; return its exit code, -9 if it was killed. Raises AssertionError with its traceback if it raised."""
    _, status = os.waitpid(child.pid, 0)
    assert not child.report.exists(), child.report.read_text(encoding="utf-8")
    return os.waitstatus_to_exitcode(status)


def in_child(do: Callable[[], object], report: Path) -> int:
    """Run it in a fork, and wait for it."""
    return joined(fork(do, report))


def watched(watcher: Watcher, run: Callable[[], None]) -> Callable[[], None]:
    """Return the function that a child process runs."""

    def do() -> None:
        with watching(watcher):
            run()

    return do


def points_of_a_run(run: Callable[[], None], folder: Path) -> list[Point]:
    """Return every point of an undisturbed run, recorded in a child process."""
    recorder, recorded = Recorder(), folder / "points"
    do = watched(recorder, run)

    def record() -> None:
        do()
        recorded.write_text(json.dumps(recorder.points()), encoding="utf-8")

    assert in_child(record, folder / "report") == 0
    return [Point(*fields) for fields in json.loads(recorded.read_text(encoding="utf-8"))]
