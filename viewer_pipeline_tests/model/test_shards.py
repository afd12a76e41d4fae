"""The model of the shards of a cluster keeps the law in every state, and violates it if a rule is broken.

MODEL_DEPTH=2 explores larger bounds.
"""

from __future__ import annotations

import os

import pytest

from viewer_pipeline_tests.model.shard_values import ENDED, NO_HOLD, Left, Setting, World
from viewer_pipeline_tests.model.shards import RULES, explore

DEEP = int(os.environ.get("MODEL_DEPTH", "1")) > 1


def struck(
    left: Left, *, runs: int = 2, wait: bool = False, standby: bool = False, bare: bool = False, lost: bool = False
) -> Setting:
    """Return a setting whose events happen to the second shard."""
    setting = Setting(left, wait=wait, standby=standby, bare=bare, lost=lost, sends_to=(1,), events_at=(1,))
    return setting._replace(runs=((0, 1),) * runs)


ONE = Setting(shard_of=(0,), runs=((0,), (0,)), sends_to=(0,), events_at=(0,))
SMALL = {
    "calm": Setting(Left(sends=1, crashes=1, resent=1)),
    "flushes of one or two counters": Setting(Left(sends=1, crashes=1), cuts=(1, 2)),
    "one moves": Setting(Left(sends=1, crashes=1, migrations=1), events_at=(1,)),
    "one moves, a script is sent twice": Setting(Left(sends=1, resent=1, migrations=1), events_at=(0,)),
    "one is emptied": struck(Left(sends=1, crashes=1, emptied=1)),
    "one falls back": struck(Left(sends=1, crashes=1, copies=1, restored=1)),
    "one falls back, waiting": struck(Left(sends=1, crashes=1, copies=1, restored=1), wait=True),
    "one falls back to a copy without a marker": struck(Left(sends=1, crashes=1, restored=1), bare=True),
    "one has lost its marker": struck(Left(sends=1, crashes=1, restored=1), bare=True, lost=True),
    "PostgreSQL is rolled back": struck(Left(sends=1, crashes=1, dumps=1, rolled_back=1)),
    "the same, settled once a standby has it": struck(Left(sends=1, crashes=1, dumps=1, rolled_back=1), standby=True),
    "the same, and one run reads one shard": Setting(Left(sends=1, rolled_back=1), runs=((0, 1), (0,))),
    "one moves and falls back": struck(Left(sends=1, migrations=1, copies=1, restored=1)),
    "one moves, its target lacks keys": struck(Left(sends=1, crashes=1, migrations=1, unreplicated=1)),
    "PostgreSQL is rolled back while one moves": Setting(
        Left(dumps=1, rolled_back=1, migrations=1), events_at=(1,), numbers=False
    ),
}
LARGE = {
    "calm, three runs": Setting(Left(sends=1), runs=((0, 1),) * 3),
    "two counters in a shard": Setting(Left(sends=1, crashes=1, resent=1), (0, 0, 1), cuts=(1, 3)),
    "two move and fall back": Setting(Left(sends=1, crashes=1, migrations=2, copies=1, restored=1), events_at=(1, 0)),
    "one moves, its target lacks keys, new views": struck(Left(sends=2, crashes=1, migrations=1, unreplicated=1)),
    "one is emptied twice, three runs": struck(Left(emptied=2), runs=3),
    "one has lost its marker, three runs": struck(Left(restored=1), bare=True, lost=True, runs=3),
    "PostgreSQL is rolled back, three runs": struck(Left(sends=1, dumps=1, rolled_back=1), runs=3),
}
BROKEN = {
    "R1": ONE._replace(left=Left(crashes=1)),
    "R2": Setting(Left(sends=1)),
    "R3-unique": Setting(),
    "R3-settle-first": Setting(Left(crashes=1)),
    "R4": Setting(Left(sends=1, crashes=1)),
    "R4-node": Setting(Left(sends=1, migrations=1), events_at=(0,)),
    "R4-unmarked": Setting(Left(sends=1, resent=1)),
    "R5": Setting(Left(sends=1), (0, 0, 1), ((0, 1),), (3,)),
    "R6": struck(Left(sends=1, rolled_back=1))._replace(numbers=False),
    "R6-floor": SMALL["the same, and one run reads one shard"],
    "R7": struck(Left(sends=2, copies=1, restored=1), wait=True)._replace(runs=((0, 1),)),
    "R12": SMALL["one falls back"],
    "R14": SMALL["one is emptied"],
    "R16": SMALL["one falls back to a copy without a marker"],
    "R16-end": struck(Left(crashes=1, restored=1), bare=True),
    "R17": SMALL["PostgreSQL is rolled back"]._replace(numbers=False),
    "R17-any": ONE._replace(left=Left(sends=1, rolled_back=1), runs=((0,),) * 3, numbers=False),
    "R18": ONE._replace(left=Left(rolled_back=1), standby=True),
    "R18-earlier": ONE._replace(left=Left(crashes=1, rolled_back=1), standby=True),
}
ALSO = {"R14": "R16"}  # what is held does not count twice: so that only the broken rule shows


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*SMALL, *(LARGE if DEEP else ())])
def test_shards_keep_the_law(name: str) -> None:
    """In every state, while shards move, fall back or are emptied alone."""
    states, violation, path = explore((SMALL | LARGE)[name])
    assert (violation, path) == ("", [])
    assert states > 500


def test_every_rule_of_shards_has_a_counterexample() -> None:
    """None is missing."""
    assert list(BROKEN) == list(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_of_shards_violates_the_law(rule: str) -> None:
    """And only the broken rule does: without it, the same bounds show no violation."""
    also = ALSO.get(rule, "")
    assert explore(BROKEN[rule], also)[1] == ""
    assert explore(BROKEN[rule], also, rule)[1] != ""


def test_a_sweep_ends_what_is_held() -> None:
    """After the views of a copy without a marker are held, new ones count."""

    def has_ended(world: World) -> bool:
        marker, held = world.shards[1].marker, world.postgres.held[1]
        quiet = all(run == ENDED for run in world.runs) and world.counters == (0, 0)
        return quiet and marker is not None and marker.hold == NO_HOLD and held > 0

    _, goal, path = explore(SMALL["one has lost its marker"], goal=has_ended)
    assert goal == "goal"
    assert any("clears hold" in label for label in path)


def test_numbers_after_postgresql_was_rolled_back() -> None:
    """They begin above the floor, which a run stores before it reads a counter."""

    def is_numbered(world: World) -> bool:
        newest = world.postgres.newest
        return world.floor == 1 and newest is not None and newest.seq > 1 and newest.timeline == 1

    _, goal, path = explore(SMALL["the same, and one run reads one shard"], goal=is_numbered)
    assert goal == "goal"
    assert any("stores the floor" in label for label in path)


def test_a_shard_and_postgresql_fall_back_during_a_run() -> None:
    """A lost flush may be settled in a shard that fell back to a copy of before: its number may be given again.

    Nothing counts twice. The code refuses that shard (R20), and so does the model.
    """
    both = struck(Left(copies=1, restored=1, dumps=1, rolled_back=1), wait=True)
    assert explore(both)[1].startswith("a number was given again")
    assert explore(both._replace(numbers=False))[1] == ""


def test_a_shard_moves_while_postgresql_is_rolled_back() -> None:
    """Its marker cannot be read, so that it may be above the floor: likewise."""
    moves = SMALL["PostgreSQL is rolled back while one moves"]
    assert explore(moves._replace(numbers=True))[1].startswith("a number was given again")
