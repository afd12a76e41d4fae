"""Exploration of every reachable state, and random walks through them."""

from __future__ import annotations

import gc
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import NamedTuple

from viewer_pipeline_tests.model import calls, law
from viewer_pipeline_tests.model.design import Design
from viewer_pipeline_tests.model.run import Bounds, advance, settler_steps, steps
from viewer_pipeline_tests.model.values import ENDED, Left, Redis, Run, Step, World

Path = tuple[tuple[Step, World], ...]  # each step with the state after it


class Explored(NamedTuple):
    """The number of states, and the shortest path to a violation of the law, if there is any."""

    states: int
    violation: str
    path: Path

    @property
    def trace(self) -> tuple[Step, ...]:
        """The steps of the path."""
        return tuple(step for step, _ in self.path)


def explore(
    first: World,
    design: Design,
    bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    limit: int = 10**9,
    visit: Callable[[int, Callable[[], Path]], None] = lambda _, __: None,
) -> Explored:
    """Visit every state, breadth first. Raises OverflowError beyond `limit` states.

    `visit` gets the number of each state and a function that returns its shortest path.
    """
    with without_cycles():
        return _explore(first, design, bounds, limit, visit)


def _explore(
    first: World, design: Design, bounds: Bounds, limit: int, visit: Callable[[int, Callable[[], Path]], None]
) -> Explored:
    origins: dict[World, tuple[World, Step] | None] = {_canonical(first): None}
    queue = deque([first])
    for number in count():
        if not queue:
            break
        world = queue.popleft()
        visit(number, partial(_path, origins, world))
        if violation := law.violation(world, design):
            return Explored(len(origins), violation, _path(origins, world))
        for step, after in successors(world, design, bounds):
            key = _canonical(after)
            if key not in origins:
                origins[key] = world, step
                queue.append(after)
        if len(origins) > limit:
            raise OverflowError(f"more than {limit} states")
    return Explored(len(origins), "", ())


@contextmanager
def without_cycles() -> Iterator[None]:
    """Switch off garbage collection: states are tuples of tuples, and scanning a million of them doubles the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def successors(world: World, design: Design, bounds: Bounds) -> Iterator[tuple[Step, World]]:
    """Yield every possible next step, with the state after it."""
    alive = [n for n, run in enumerate(world.runs) if run.at not in ("ended", "read ledger") or run.tries < Run().tries]
    for n, run in enumerate(world.runs):
        if run == ENDED or (bounds.between_runs and alive and n not in alive):
            continue
        for label, after, moved in steps(world, run, design, bounds):
            yield Step(f"run {n}", label), after._replace(runs=_put(world.runs, n, moved))
        for label, after, moved in settler_steps(world, run, design, bounds):
            yield Step(f"settler {n}", label), after._replace(runs=_put(world.runs, n, moved))
        if run.at == "find":  # R8: look the flush up by its id
            is_committed = run.committed in world.postgres.ledger
            moved = advance(run._replace(at="add")) if is_committed else ENDED
            yield Step(f"run {n}", "find"), world._replace(runs=_put(world.runs, n, moved))
        if world.left.crashes and run.at != "read ledger":
            left = world.left._replace(crashes=world.left.crashes - 1)
            yield Step(f"run {n}", "dies"), world._replace(left=left, runs=_put(world.runs, n, ENDED))
    if world.left.sends:
        left = world.left._replace(sends=world.left.sends - 1)
        for vod, sent in enumerate(world.sent):
            redis = calls.increment(world.redis, vod)
            yield (
                Step("producer", "INCR", vod),
                world._replace(
                    redis=redis,
                    sent=calls.put(world.sent, vod, sent + 1),
                    lower=calls.put(world.lower, vod, world.lower[vod] + 1),
                    upper=calls.put(world.upper, vod, world.upper[vod] + 1),
                    left=left,
                ),
            )
    if not (bounds.between_runs and alive):
        yield from _disasters(world, design)


def _disasters(world: World, design: Design) -> Iterator[tuple[Step, World]]:
    left, redis = world.left, world.redis
    if left.copies and redis != world.copy and (redis.marker is not None or design.hold):
        yield Step("disaster", "copy"), world._replace(copy=redis, left=left._replace(copies=left.copies - 1))
    if left.dumps and world.postgres != world.dump:
        after = world._replace(dump=world.postgres, left=left._replace(dumps=left.dumps - 1))
        yield Step("disaster", "dump"), after
    if left.emptied:
        none = (0,) * len(world.sent)
        after = world._replace(
            redis=Redis(none, None, none, redis.lineage + 1, redis.life),
            left=left._replace(emptied=left.emptied - 1),
        )
        yield Step("disaster", "emptied"), law.excuse(after, law.emptied(world, design), design)
    if left.restored and redis != world.copy:
        after = world._replace(
            redis=world.copy._replace(life=redis.life + 1),
            left=left._replace(restored=left.restored - 1),
        )
        yield Step("disaster", "restored"), law.excuse(after, law.restored(world, design), design)
    if left.rolled_back and world.postgres != world.dump:
        after = world._replace(
            postgres=world.dump._replace(line=world.postgres.line + 1),
            left=left._replace(rolled_back=left.rolled_back - 1),
        )
        yield Step("disaster", "rolled back"), law.excuse(after, law.rolled_back(world, design), design)


def walk(first: World, design: Design, bounds: Bounds, chance: random.Random) -> list[tuple[Step, World]]:
    """Take random steps until none is possible; return each step with the state after it."""
    path: list[tuple[Step, World]] = []
    world = first
    while possible := list(successors(world, design, bounds)):
        step, world = chance.choice(possible)
        path.append((step, world))
    return path


def _put(runs: tuple[Run, ...], n: int, run: Run) -> tuple[Run, ...]:
    return (*runs[:n], run, *runs[n + 1 :])


def _canonical(world: World) -> World:
    """Sort the runs, whose order does not matter."""
    return world._replace(runs=tuple(sorted(world.runs, key=hash)))


def _path(origins: dict[World, tuple[World, Step] | None], world: World) -> Path:
    path = []
    while (origin := origins[_canonical(world)]) is not None:
        path.append((origin[1], world))
        world = origin[0]
    return tuple(reversed(path))


__all__ = ["Explored", "Left", "explore", "successors", "walk"]
