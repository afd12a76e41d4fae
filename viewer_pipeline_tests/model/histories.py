"""Executions of the model as histories, which a program without our code checks (the docstring of tools/judge.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from viewer_pipeline_tests.model.design import Design
from viewer_pipeline_tests.model.explore import Path as Execution
from viewer_pipeline_tests.model.explore import successors
from viewer_pipeline_tests.model.run import Bounds
from viewer_pipeline_tests.model.values import Left, Run, Views, World

Line = dict[str, object]


def write_history(file: Path, first: World, path: Execution, design: Design, bounds: Bounds) -> None:
    """Write an execution that continues without further events until a last run has drained the counters."""
    worlds = [first, *(world for _, world in path)]
    begin = begin_after_last_disaster(worlds)
    worlds += drain(worlds[-1], design, bounds)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines(worlds, begin)), encoding="utf-8")


def drain(world: World, design: Design, bounds: Bounds) -> Iterator[World]:
    """Yield the states until all runs have ended, and a last one."""
    world = world._replace(left=Left())
    for _ in range(2):
        while after := next(successors(world, design, bounds), None):
            world = after[1]
            yield world
        world = world._replace(runs=(Run(number=len(world.runs)),))


def lines(worlds: list[World], begin: int) -> Iterator[Line]:
    """Yield the lines of a history that begins with a state; the state of number n lasts from n to n + 1.

    The views that exist then are between the bounds of the law: as many as `lower` must count, those up to `upper` may.
    Two readers read each state: one in a moment, and one that reads PostgreSQL in the next state.
    """
    yield {"type": "start", "format": 1, "system": "model"}
    none = (0,) * len(worlds[begin].sent)
    yield from sends(begin, none, none, worlds[begin])
    for at, (before, after) in enumerate(pairwise(worlds[begin:]), begin):
        yield read("read", at + 0.5, at + 0.5, before, before)
        yield read("read", at + 0.5, at + 1.5, before, after)
        yield from sends(at + 1, before.lower, before.upper, after)
    yield read("final", len(worlds), len(worlds), worlds[-1], worlds[-1])


def begin_after_last_disaster(worlds: list[World]) -> int:
    """Return the number of the first state after the last disaster, or 0: what existed before it may be lost."""
    numbers = [0]
    for number, (before, after) in enumerate(pairwise(worlds), 1):
        events = ("emptied", "restored", "rolled_back")
        if any(getattr(before.left, event) > getattr(after.left, event) for event in events):
            numbers.append(number)
    return numbers[-1]


def sends(at: float, lower: Views, upper: Views, after: World) -> Iterator[Line]:
    """Yield the views by which the bounds have grown: certain ones for `lower`, which may be negative, and others."""
    for outcome in ("ok", "unknown"):
        certain = [max(new, 0) - max(old, 0) for old, new in zip(lower, after.lower, strict=True)]
        views = [
            n if outcome == "ok" else new - old - n for n, old, new in zip(certain, upper, after.upper, strict=True)
        ]
        if any(views):
            yield {"type": "send", "begin": at, "end": at, "outcome": outcome, "views": by_vod(tuple(views))}


def read(kind: str, begin: float, end: float, redis: World, postgres: World) -> Line:
    """Return a read of the counters in one state, and of the totals in the same or a later one."""
    stored = zip(postgres.postgres.totals, postgres.postgres.held, strict=True)  # after an emptied Redis, all are new
    persisted, pending = by_vod(tuple(map(sum, stored))), by_vod(redis.redis.counters)
    return {"type": kind, "begin": begin, "end": end, "persisted": persisted, "pending": pending}


def by_vod(views: Views) -> dict[str, int]:
    """Name the VODs."""
    return {f"vod{number}": views for number, views in enumerate(views)}
