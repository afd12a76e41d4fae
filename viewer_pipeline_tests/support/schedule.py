"""A scheduler that lets real flushes advance one call at a time, in the order of a plan.

Each flush has its threads as always; each of them stops before each call to a server until the scheduler permits it.
Only one thread runs at any time, so that the same plan makes the same calls in the same order.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import psycopg
import redis

from viewer_pipeline_tests.support.calls import Call

Fate = Literal["go", "cut", "lost", "die", "die before the reply"]
TIMEOUT_SECONDS = 60  # for a thread that makes no call and does not end: a defect of the test or of the code
LOCK_WAIT_SECONDS = 0.003  # a call that takes longer may be waiting for a lock


class Abandoned(BaseException):
    """Ends the thread of a process that has died: no code of ours catches it, and nothing more is sent."""


@dataclass(eq=False)
class Actor:
    """Stands for one process."""

    name: str
    dead: bool = False
    failed: BaseException | None = None
    pids: set[int] = field(default_factory=set)  # of its PostgreSQL connections


@dataclass(eq=False)
class Line:
    """One thread of an actor."""

    actor: Actor
    role: str
    state: Literal["running", "at a call", "calling", "blocked", "waiting", "ended"] = "running"
    call: Call | None = None
    fate: Fate = "go"
    permit: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    pid: int = 0  # of the PostgreSQL connection that the call is made on
    awaited: Callable[[], bool] = lambda: True  # whether the event it is waiting for has happened

    def __str__(self) -> str:
        return self.actor.name if self.role == "main" else f"{self.actor.name} {self.role}"


_own = threading.local()


class Scheduler:
    """Delays every call of the lines that it started. Pass it to `watching`."""

    def __init__(self, monitor: psycopg.Connection) -> None:
        self.lines: list[Line] = []
        self.trace: list[str] = []
        self.calls = 0
        self.waited = 0  # calls that waited for a lock of another actor
        self._monitor = monitor
        self._broken: set[int] = set()
        self.changed = threading.Condition()

    # --- on the threads of the actors ---

    def __call__(self, call: Call) -> Any:
        """Make a call once it is permitted; calls that no other process can observe are made immediately."""
        line: Line | None = getattr(_own, "line", None)
        if line is None:
            return call.run()
        connection = call.connection
        if line.actor.dead:
            _abandon(call)
        if isinstance(connection, psycopg.Connection) and connection.closed:
            return call.run()  # which fails
        if call.private:
            reply = call.run()
            if isinstance(reply, psycopg.Connection):
                line.actor.pids.add(reply.info.backend_pid)
            return reply
        line.call = call
        line.pid = connection.info.backend_pid if isinstance(connection, psycopg.Connection) else 0
        self._set_state(line, "at a call")
        line.permit.acquire()
        try:
            return self._execute(line, call)
        finally:
            self._set_state(line, "running")

    def _execute(self, line: Line, call: Call) -> Any:
        try:
            if line.fate in ("go", "lost", "die before the reply") and not line.actor.dead:
                reply = call.run()
        finally:
            if line.fate.startswith("die"):
                line.actor.dead = True
            if line.actor.dead:
                _abandon(call)
        if line.fate == "go":
            return reply
        _close(call)
        self._broken.add(line.pid)
        broken = redis.ConnectionError if call.server == "redis" else psycopg.OperationalError
        raise broken(f"{line.fate} by the schedule")

    def _set_state(self, line: Line, state: Any) -> None:
        with self.changed:
            line.state = state
            self.changed.notify_all()

    def start(self, actor: Actor, role: str, do: Callable[[], Any], ended: Callable[[], None] = lambda: None) -> Line:
        """Start a line; `ended` is called when it has ended, before any other line runs."""
        line = Line(actor, role)

        def run() -> None:
            _own.line = line
            try:
                do()
            except Abandoned:
                pass
            except BaseException as error:  # noqa: BLE001 - raised by the test that started the actor
                actor.failed = error
            with self.changed:
                ended()
                line.state = "ended"
                self.changed.notify_all()

        with self.changed:
            self.lines.append(line)
        threading.Thread(target=run, name=f"{role}_0", daemon=True).start()
        return line

    def executor(self, _: int, name: str) -> Executor:
        """Return a replacement of ThreadPoolExecutor(1, name) that runs on a line."""
        line: Line | None = getattr(_own, "line", None)
        return Executor(self, line.actor if line else Actor("no actor"), name)

    def wait_for(self, done: Callable[[], bool]) -> None:
        """Let the current line wait until another one has done something."""
        line: Line | None = getattr(_own, "line", None)
        with self.changed:
            if line is not None:
                line.state, line.awaited = "waiting", done
                self.changed.notify_all()
            self.changed.wait_for(done)
            if line is not None:
                line.state = "running"

    # --- on the thread of the test ---

    def ready(self) -> list[Line]:
        """Return the lines that can make their next call, in the order in which they were started."""
        return [line for line in self.lines if line.state == "at a call"]

    def step(self, line: Line, fate: Fate = "go") -> None:
        """Let a line make its call, with this fate, and wait until every line needs a permit."""
        suffix = "" if fate == "go" else f"  <- {fate}"
        self.trace.append(f"{line}: {line.call}{suffix}")
        self.calls += 1
        line.fate = fate
        with self.changed:
            line.state = "calling"
            line.permit.release()
        self.settle_down()
        if fate.startswith("die"):
            self.kill(line.actor)

    def kill(self, actor: Actor) -> None:
        """Let an actor send nothing more, close its connections, and end its threads."""
        with self.changed:
            actor.dead = True
            for line in self.lines:
                if line.actor is actor and line.state == "at a call":
                    line.state = "calling"
                    line.permit.release()
        if actor.pids:
            self._monitor.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [list(actor.pids)])
            self._gone(actor.pids)
        self.settle_down()

    def _gone(self, pids: set[int]) -> None:
        if not pids:
            return
        deadline = time.monotonic() + TIMEOUT_SECONDS
        query = "SELECT FROM pg_stat_activity WHERE pid = ANY(%s)"
        while self._monitor.execute(query, [list(pids)]).fetchone() is not None:
            assert time.monotonic() < deadline, f"PostgreSQL still serves {pids}"

    def settle_down(self) -> None:
        """Wait until each line is before a call, has ended, or waits for another line or for a lock."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            with self.changed:
                self.changed.wait_for(lambda: not self._busy(("running", "calling", "blocked")), LOCK_WAIT_SECONDS)
                if not self._busy(("running", "calling", "blocked")):
                    break
                running = self._busy(("running",))
                calling = self._busy(("calling", "blocked"))
            if not running and all(line.pid and self._locked(line.pid) for line in calling):
                with self.changed:
                    if all(line.state in ("calling", "blocked") for line in calling) and not self._busy(("running",)):
                        for line in calling:
                            self.waited += line.state == "calling"
                            line.state = "blocked"
                        break
            assert time.monotonic() < deadline, "\n".join([*self.trace, *(f"{x}: {x.state}" for x in self.lines)])
        self._gone(self._broken)
        self._broken.clear()

    def _busy(self, states: Sequence[str]) -> list[Line]:
        woken = "running" in states
        return [
            line
            for line in self.lines
            if line.state in states or (woken and line.state == "waiting" and line.awaited())
        ]

    def _locked(self, pid: int) -> bool:
        row = self._monitor.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [pid]).fetchone()
        return bool(row and row[0])


def _abandon(call: Call) -> None:
    _close(call)
    raise Abandoned


def _close(call: Call) -> None:
    if call.server == "redis":
        call.connection.disconnect()  # type: ignore[union-attr]  # a call to Redis has a connection
    elif call.connection is not None:
        call.connection.close()  # type: ignore[union-attr]  # psycopg's


class Work:
    """A replacement of the future that ThreadPoolExecutor.submit returns."""

    def __init__(self, scheduler: Scheduler, do: Callable[[], Any]) -> None:
        self._scheduler, self._do = scheduler, do
        self.done = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run it, and keep its result or error."""
        try:
            self._result = self._do()
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self._error = error

    def result(self) -> Any:
        """Wait for it on the calling line; return its result or raise its error."""
        self._scheduler.wait_for(lambda: self.done)
        if self._error is not None:
            raise self._error
        return self._result


class Executor:
    """A ThreadPoolExecutor of one thread whose waits the scheduler knows."""

    def __init__(self, scheduler: Scheduler, actor: Actor, name: str) -> None:
        self._scheduler, self._actor, self._name = scheduler, actor, name
        self._queue: deque[Work] = deque()
        self._current: Work | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def submit(self, do: Callable[..., Any], *arguments: Any, **options: Any) -> Work:
        """Run it on a line of its own, after earlier submissions."""
        work = Work(self._scheduler, lambda: do(*arguments, **options))
        with self._scheduler.changed:
            self._queue.append(work)
            if self._current is None:
                self._next()
        return work

    def shutdown(self, *, cancel_futures: bool = False) -> None:
        """Wait for everything submitted, or only for the work that has begun."""
        with self._scheduler.changed:
            if cancel_futures:
                self._queue.clear()
        self._scheduler.wait_for(lambda: self._current is None)

    def _next(self) -> None:
        self._current = self._queue.popleft() if self._queue else None
        if (work := self._current) is not None:
            self._scheduler.start(self._actor, self._name, work.run, lambda: self._done(work))

    def _done(self, work: Work) -> None:
        work.done = True
        self._next()
