"""Traces of the model of shards: a choice that covers the kinds of steps, and the pairs that follow each other."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from viewer_pipeline_tests.model.shard_values import Left, Setting, World
from viewer_pipeline_tests.model.shards import starts, successors

CANDIDATES = 12  # walks of which the one with the most new pairs is a trace
RARELY = 0.3  # how often a walk takes any step, not one whose pair was seen least
ALL = frozenset[str]()
Pair = tuple[str, str]


class Trace(NamedTuple):
    """A sequence of steps from a first state, each with the state after it."""

    name: str
    setting: Setting
    first: World
    path: list[tuple[str, World]]

    @property
    def pairs(self) -> list[Pair]:
        """The kinds of steps that follow each other."""
        kinds = ["begin", *(kind_of(label) for label, _ in self.path)]
        return list(pairwise(kinds))

    def __str__(self) -> str:
        """Render for a message."""
        return "\n".join([self.name, *(label for label, _ in self.path)])


def kind_of(label: str) -> str:
    """Return a step without the numbers of its run, shard and key."""
    return re.sub(r" \d+| \([\d, ]+\)", "", label)


def struck(left: Left, runs: int, **options: bool) -> Setting:
    """Return a setting with runs over both shards, the second of which events strike."""
    setting = Setting(left, runs=((0, 1),) * runs, sends_to=(1,), events_at=(1,), traced=True)
    return setting._replace(**options)  # type: ignore[arg-type]  # mypy checks a mapping against the first field


SETTINGS = {
    "calm": struck(Left(sends=2, crashes=1, resent=1), 3)._replace(cuts=(1, 2), sends_to=(0, 1)),
    "one run reads one shard": Setting(Left(sends=1, crashes=1), runs=((0, 1), (0,), (1,)), traced=True),
    "moves": struck(Left(sends=1, crashes=1, resent=1, migrations=1), 2),
    "moves, two counters": struck(Left(sends=2, migrations=1, crashes=1), 2)._replace(shard_of=(0, 1, 1), cuts=(1, 3)),
    "both may move": Setting(Left(sends=1, migrations=1), traced=True),
    "moves and falls back": struck(Left(sends=1, migrations=1, copies=1, restored=1), 2),
    "moves, the target lacks keys": struck(Left(sends=1, crashes=1, migrations=1, unreplicated=1), 2),
    "moves, held views": struck(Left(sends=1, migrations=1, restored=1), 3, bare=True, lost=True),
    "emptied": struck(Left(sends=2, crashes=1, emptied=2), 3),
    "falls back": struck(Left(sends=2, crashes=1, copies=1, restored=1), 3),
    "falls back, waiting": struck(Left(sends=2, crashes=1, copies=1, restored=1), 3, wait=True),
    "falls back to a copy without a marker": struck(Left(sends=1, crashes=1, restored=1), 3, bare=True),
    "has lost its marker": struck(Left(sends=1, crashes=1, restored=1), 4, bare=True, lost=True),
    "rolled back": struck(Left(sends=1, crashes=1, dumps=1, rolled_back=2), 3),
    "rolled back, flushes of one counter": struck(Left(sends=1, crashes=1, dumps=1, rolled_back=1), 3)._replace(
        cuts=(1,)
    ),
    "rolled back to what a standby has": struck(Left(sends=1, crashes=1, rolled_back=1), 3, standby=True),
    "rolled back, one run reads one shard": Setting(
        Left(sends=1, crashes=1, dumps=1, rolled_back=1), runs=((0, 1), (0,), (0, 1)), traced=True
    ),
    "rolled back and emptied": struck(Left(sends=1, dumps=1, rolled_back=1, emptied=2), 3),
    "rolled back and falls back, waiting": struck(Left(copies=1, restored=1, dumps=1, rolled_back=1), 3, wait=True),
    "rolled back and moves": struck(Left(sends=1, dumps=1, rolled_back=1, migrations=1), 3),
}

# What random walks rarely do: in one of these settings, the runs make no step but those that lead to the next one here.
SCENARIOS = {
    "batches of an earlier run are listed after PostgreSQL was rolled back": (
        "rolled back, flushes of one counter",
        (
            "run 0 commits, dump, run 0 commits, run 0 dies, run 1 drains 1, PostgreSQL is rolled back,"
            " run 1 lists batches: another timeline"
        ),
    ),
    "one key of two has moved when a flush is settled": (
        "moves",
        (
            "run 0 commits, shard 1 begins to move, key 0 of shard 1 moves, run 0 settles 1: redirected,"
            " key 1 of shard 1 moves, run 1 drains 1: redirected, shard 1 has moved"
        ),
    ),
    "a shard moves while what an earlier run left is settled": (
        "moves",
        (
            "run 0 commits, run 0 dies, run 1 lists batches, shard 1 begins to move, key 0 of shard 1 moves,"
            " key 1 of shard 1 moves, shard 1 has moved, run 1 settles 1, run 1 drains 1"
        ),
    ),
    "the first of two batches is redirected": (
        "moves, two counters",
        (
            "run 0 commits, shard 1 begins to move, key 0 of shard 1 moves, run 0 settles 1: redirected,"
            " run 0 settles 0, key 1 of shard 1 moves, key 2 of shard 1 moves, shard 1 has moved, run 1 settles 1"
        ),
    ),
    "one run reads one shard after PostgreSQL has lost a flush that is settled in the other": (
        "rolled back, one run reads one shard",
        (
            "run 0 commits, run 0 settles 1, run 0 dies, PostgreSQL is rolled back, run 1 stores the floor,"
            " run 1 commits, run 1 settles 0"
        ),
    ),
    "what an earlier run left is settled once a standby has it": (
        "rolled back to what a standby has",
        "run 0 commits, run 0 dies, run 1 lists batches, run 1 waits for a standby, run 1 settles 1, run 1 drains 1",
    ),
    "one run makes a marker twice": (
        "rolled back and emptied",
        (
            "run 0 commits, run 0 settles 1, PostgreSQL is rolled back, shard 1 is emptied, run 1 drains 1,"
            " run 1 stores the floor, shard 1 is emptied, run 1 drains 1"
        ),
    ),
    "a sweep clears what an earlier one held": (
        "has lost its marker",
        "run 0 records holds, run 0 commits, run 0 settles 1, run 1 reads holds, run 1 clears hold of 1",
    ),
    "a number is given again while a shard moves": (
        "rolled back and moves",
        (
            "run 0 commits, run 0 settles 1, shard 1 begins to move, key 0 of shard 1 moves, PostgreSQL is rolled back,"
            " run 1 drains 1: redirected, run 1 reads the ledger again, run 1 drains 0, run 0 settles 0: refused,"
            " run 1 commits, run 1 settles 0, shard 1 has moved, run 2 lists batches: another history"
        ),
    ),
}


def scenario(name: str) -> Trace:
    """Return the trace of a scenario, which ends with it. Raises AssertionError if the model has no such steps."""
    setting_name, text = SCENARIOS[name]
    setting = SETTINGS[setting_name]
    first = starts(setting)[-1]
    world, path = first, list[tuple[str, World]]()
    for milestone in text.split(", "):
        label = ""
        while label != milestone:
            steps = dict(successors(world, setting, ALL))
            label = milestone if milestone in steps else _on_the_way(list(steps), milestone)
            assert label, f"{name}: {milestone!r} is none of {list(steps)} after {[step for step, _ in path]}"
            world = steps[label]
            path.append((label, world))
    return Trace(name, setting, first, path)


def _on_the_way(labels: Sequence[str], milestone: str) -> str:
    actor = " ".join(milestone.split(" ")[:2])
    own = (label for label in labels if label.startswith(actor) and not label.endswith(("dies", "twice")))
    return next(own, "")


def walk(name: str, seen: Mapping[Pair, int], chance: random.Random) -> Trace:
    """Take steps until none is possible, with preference to those that have followed the last one least often."""
    setting = SETTINGS[name]
    first = chance.choice(starts(setting))
    world, path, last, counts = first, list[tuple[str, World]](), "begin", Counter(seen)
    while steps := [(label, after, (last, kind_of(label))) for label, after in successors(world, setting, ALL)]:
        least = min(counts[pair] for *_, pair in steps)
        rare = [step for step in steps if counts[step[2]] == least]
        label, world, pair = chance.choice(steps if chance.random() < RARELY else rare)
        counts[pair] += 1
        last = pair[1]
        path.append((label, world))
    return Trace(name, setting, first, path)


def traces(number: int, seed: str) -> Iterator[Trace]:
    """Yield the scenarios, then so many walks, each of which has more pairs that none before it has than others."""
    chance, seen = random.Random(seed), Counter[Pair]()
    for name in SCENARIOS:
        trace = scenario(name)
        seen.update(trace.pairs)
        yield trace
    for at in range(number):
        names = list(SETTINGS)
        name = names[at % len(names)]
        walks = [walk(name, seen, chance) for _ in range(CANDIDATES)]
        best = max(walks, key=lambda trace: len({*trace.pairs} - seen.keys()))
        seen.update(best.pairs)
        yield best
