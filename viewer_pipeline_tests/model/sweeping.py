"""Sweeps in parts: runs that store how far they have come, a worker that requests sweeps, a Redis that is restarted.

No count depends on a position, so it is modelled apart from the flush. One step is one call of a run: it settles what
was committed, reads request and position, scans counter after counter, commits, settles, and stores its position. Each
process of Redis has an order of its keys; a restart begins another process, with the same state or an older one. The
script that stores a position may be executed again much later.

The law: once a request is removed, every view that was in a counter when it was made is committed. Comparing the old
position only saves work ("compare" may be left out).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from viewer_pipeline_tests.model.search import search

RULES = {
    "whole pass": "remove the request after the first part",
    "server": "continue at a position of another process of Redis",
    "connection": "continue SCAN over a new connection, to another process of Redis",
    "commit": "store the position before the part is committed",
    "settle": "store the position of a part whose commit was superseded",
    "request": "remove the request that is found by the last part, not by the first",
    "newer": "remove any request",
}
ORDERS = (0, 1), (1, 0)  # of the counters, by the number of the process


class View(NamedTuple):
    """A view, and how many requests were made before it came in."""

    vod: int
    requests: int


class Position(NamedTuple):
    """Where the next part begins."""

    cursor: int
    server: int
    request: int


class Script(NamedTuple):
    """The arguments of `advance_sweep`. `after` None: the part was the last."""

    before: Position | None
    after: Position | None
    request: int


class Redis(NamedTuple):
    """The state that a restart keeps. `request` 0: none."""

    views: frozenset[View]
    request: int
    position: Position | None = None


class Run(NamedTuple):
    """A run: its next step and its state."""

    at: str = "begin"
    base: int = 0
    server: int = 0
    begin: Position = Position(0, 0, 0)
    before: Position | None = None
    cursor: int = 0
    read: frozenset[View] = frozenset()


ENDED = Run("ended")


class World(NamedTuple):
    """Redis, the ledger, the runs, and the events that may still happen."""

    redis: Redis
    copy: Redis
    runs: tuple[Run, ...]
    server: int = 0
    committed: frozenset[View] = frozenset()
    flushes: int = 0
    requests: int = 1  # that were made
    fulfilled: int = 0  # the last of those that were removed
    late: frozenset[Script] = frozenset()
    sends: int = 0
    more_requests: int = 1
    restarts: int = 0
    copies: int = 0
    crashes: int = 0
    resent: int = 0


def start(runs: int, **left: int) -> World:
    """Return a world with a view in each counter and a request."""
    redis = Redis(frozenset(View(vod, 0) for vod in ORDERS[0]), 1)
    return World(redis, redis, (Run(),) * runs)._replace(**left)  # type: ignore[arg-type]


SCENES = {
    "calm": start(3, sends=1),
    "crashes": start(3, crashes=1, resent=1),
    "restarted": start(3, restarts=1),
    "restarted with an older state": start(2, restarts=1, copies=1),
}
LARGE = {
    "calm, crashes": start(3, sends=1, crashes=1, resent=1),
    "restarted, new views": start(3, sends=1, restarts=1),
    "restarted, late scripts": start(3, restarts=1, resent=1),
    "restarted with an older state, three runs": start(3, restarts=1, copies=1),
}
BROKEN = {
    "whole pass": "calm",
    "server": "restarted",
    "connection": "restarted",
    "commit": "calm",
    "settle": "calm",
    "request": "calm",
    "newer": "calm",
}


def explore(first: World, rule: str = "") -> tuple[int, str, list[str]]:
    """Visit every state; return their number, and a violation of the law with the path to it."""
    return search(first, lambda world: _sorted_successors(world, rule), violation)


def _sorted_successors(world: World, rule: str) -> Iterator[tuple[str, World]]:
    """The order of actors does not matter."""
    for label, after in successors(world, rule):
        yield label, after._replace(runs=tuple(sorted(after.runs, key=hash)))


def violation(world: World) -> str:
    """Return the violation of the law; "" if there is none."""
    missed = [view for view in world.redis.views - world.committed if view.requests < world.fulfilled]
    return f"request {world.fulfilled} was fulfilled without {missed}: {world}" if missed else ""


def successors(world: World, rule: str = "") -> Iterator[tuple[str, World]]:
    """Yield every possible next step."""
    for n, run in enumerate(world.runs):
        if run.at == "ended":
            continue
        for label, after, moved in _steps(world, run, rule):
            yield f"run {n} {label}", after._replace(runs=(*world.runs[:n], moved, *world.runs[n + 1 :]))
        if world.crashes and run.at != "begin":
            rest = (*world.runs[:n], ENDED, *world.runs[n + 1 :])
            yield f"run {n} dies", world._replace(crashes=world.crashes - 1, runs=rest)
    for script in world.late:
        yield "late script", advance(world._replace(late=world.late - {script}), script, rule)
    yield from _events(world)


def _events(world: World) -> Iterator[tuple[str, World]]:
    if world.sends:
        for vod in ORDERS[0]:
            redis = world.redis._replace(views=world.redis.views | {View(vod, world.requests)})
            yield f"INCR {vod}", world._replace(sends=world.sends - 1, redis=redis)
    if world.more_requests:
        redis = world.redis._replace(request=world.requests + 1)
        after = world._replace(more_requests=world.more_requests - 1, requests=world.requests + 1, redis=redis)
        yield "request", after
    if world.copies and world.copy != world.redis:
        yield "copy", world._replace(copies=world.copies - 1, copy=world.redis)
    if world.restarts:
        after = world._replace(restarts=world.restarts - 1, server=world.server + 1)
        yield "restart", after
        yield "restart with an older state", after._replace(redis=world.copy)


def _steps(world: World, run: Run, rule: str) -> Iterator[tuple[str, World, Run]]:
    redis = world.redis
    match run.at:
        case "begin":
            after = world._replace(redis=redis._replace(views=redis.views - world.committed))
            yield "settles", after, Run("request", base=world.flushes, server=world.server)
        case "request":
            begin = Position(0, run.server, redis.request)
            yield "reads request", world, _connected(world, run._replace(at="position", begin=begin))
        case "position":
            yield "reads position", world, _connected(world, _at_position(redis.position, run, rule))
        case "scan":
            yield from _scan(world, run, rule)
        case "commit":
            if world.flushes != run.base:
                yield "is superseded", world, run._replace(at="store") if rule == "settle" else ENDED
                return
            after = world._replace(committed=world.committed | run.read, flushes=world.flushes + 1)
            yield "commits", after, run._replace(at="settle")
        case "settle":
            after = world._replace(redis=redis._replace(views=redis.views - run.read))
            yield "settles", after, ENDED if rule == "commit" else run._replace(at="store")
        case _:
            yield from _store(world, run, rule)


def _at_position(stored: Position | None, run: Run, rule: str) -> Run:
    run = run._replace(at="scan", before=stored)
    if stored is None or (stored.server != run.server and rule != "server"):
        return run
    request = run.begin.request if rule == "request" else stored.request
    return run._replace(begin=stored._replace(server=run.server, request=request), cursor=stored.cursor)


def _connected(world: World, run: Run) -> Run:
    """Return the run; it fails if its connection led to a process of Redis that has ended."""
    return run if run.server == world.server else ENDED


def _scan(world: World, run: Run, rule: str) -> Iterator[tuple[str, World, Run]]:
    """Read the next counter; then end the part, or go on."""
    if rule != "connection" and _connected(world, run) == ENDED:
        yield "loses its connection", world, ENDED
        return
    order = ORDERS[world.server % 2]
    vod = order[run.cursor]
    read = run.read | {view for view in world.redis.views if view.vod == vod}
    cursor = (run.cursor + 1) % len(order)
    run = run._replace(read=read, cursor=cursor)
    yield f"reads {vod}, the end of its part", world, run._replace(at="store" if rule == "commit" else "commit")
    if cursor:
        yield f"reads {vod}", world, run


def _store(world: World, run: Run, rule: str) -> Iterator[tuple[str, World, Run]]:
    is_last = run.cursor == 0 or rule == "whole pass"
    script = Script(run.before, None if is_last else run.begin._replace(cursor=run.cursor), run.begin.request)
    moved = run._replace(at="commit") if rule == "commit" else ENDED
    yield "stores its position", advance(world, script, rule), moved
    if world.resent:
        late = world._replace(resent=world.resent - 1, late=world.late | {script})
        yield "stores its position twice", advance(late, script, rule), moved


def advance(world: World, script: Script, rule: str) -> World:
    """Run the script `advance_sweep`."""
    redis = world.redis
    if script.after is None and redis.request and (redis.request == script.request or rule == "newer"):
        world = world._replace(fulfilled=max(world.fulfilled, redis.request))
        redis = redis._replace(request=0)
    if redis.position == script.before or rule == "compare":
        redis = redis._replace(position=script.after)
    return world._replace(redis=redis)
