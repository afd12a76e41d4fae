"""The real flush, call by call along traces of the model, ends where the model ends.

MODEL_TRACES=5000 drives that many traces instead of 120.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest

from viewer_pipeline.flush.standby_wait import StandbyWait
from viewer_pipeline_tests.model.design import CODE
from viewer_pipeline_tests.model.explore import walk
from viewer_pipeline_tests.model.rehearsal import TABLES, Rehearsal, expected
from viewer_pipeline_tests.model.run import Bounds
from viewer_pipeline_tests.model.values import FIRST, Left, start
from viewer_pipeline_tests.support.world import World

TRACES = int(os.environ.get("MODEL_TRACES", "120"))
KINDS = {
    "calm": Left(sends=3, crashes=1, lost_replies=1, resent=1),
    "emptied": Left(sends=3, crashes=1, emptied=1),
    "restored": Left(sends=3, crashes=1, copies=1, restored=1),
    "restored without a marker": Left(sends=2, crashes=1, restored=2),
    "rolled back": Left(sends=2, crashes=1, dumps=1, rolled_back=1),
    "rolled back to what a standby has": Left(sends=2, crashes=1, rolled_back=1),
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_code_and_model_end_in_the_same_state(world: World, kind: str) -> None:
    """Counters, marker, ledger and totals, along random traces of two and three runs."""
    chance, with_standby = random.Random(kind), "standby" in kind
    world.stores.ledger.standby_wait = StandbyWait(int(with_standby))
    for number in range(TRACES // len(KINDS)):
        marker = None if kind == "restored without a marker" else FIRST
        first = start(2, 2 + number % 2, KINDS[kind], numbered=True, marker=marker)
        path = walk(first, replace(CODE, standby=with_standby), Bounds(pipelined=False, sweeps=False), chance)
        trace = "\n".join([kind, *(str(step) for step, _ in path)])
        rehearsal = Rehearsal(world, first)
        try:
            rehearsal.play(path)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{trace}") from error
        assert rehearsal.end() == expected(path[-1][1]), trace
        world.client.flushall()
        world.execute("; ".join(f"DELETE FROM viewer.{table}" for table in TABLES))
