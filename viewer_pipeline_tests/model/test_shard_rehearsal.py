"""The real flush of a real cluster has the state of the model after each step of traces of the model of shards.

VIEWER_TEST_SHARD_TRACES=500 drives that many walks instead of 50, VIEWER_TEST_SHARD_SEED another choice of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from viewer_pipeline_tests.model.shard_rehearsal import ShardRehearsal
from viewer_pipeline_tests.model.shard_traces import SCENARIOS, Pair, traces
from viewer_pipeline_tests.support.cluster_world import ClusterWorld

WALKS = int(os.environ.get("VIEWER_TEST_SHARD_TRACES", "50"))
SEED = os.environ.get("VIEWER_TEST_SHARD_SEED", "shards")
KINDS = {
    "INCR",
    "PostgreSQL is rolled back",
    "copy of shard",
    "dump",
    "key of shard moves",
    "run clears hold of",
    "run commits",
    "run commits: superseded",
    "run dies",
    "run drains",
    "run drains: redirected",
    "run lists batches",
    "run lists batches: another history",
    "run lists batches: another timeline",
    "run lists batches: none",
    "run reads counted views",
    "run reads holds",
    "run reads holds: others",
    "run reads the floor",
    "run reads the ledger",
    "run reads the ledger again",
    "run reads the slots",
    "run records holds",
    "run settles",
    "run settles twice",
    "run settles: redirected",
    "run settles: refused",
    "run stores the floor",
    "run waits for",
    "run waits for a standby",
    "run waits for a standby: lost",
    "run waits for: the connection broke",
    "shard begins to move",
    "shard falls back",
    "shard has moved",
    "shard is emptied",
    "the target of shard keeps keys",
}


@pytest.mark.timeout(3600)
def test_code_and_model_of_shards_have_the_same_state(
    cluster_world: ClusterWorld, add_to_summary: Callable[[str], None]
) -> None:
    """Markers, counters, ledger, totals, held views and the home slot: after each step of each trace."""
    pairs, steps, number = set[Pair](), 0, 0
    for number, trace in enumerate(traces(WALKS, SEED), 1):
        try:
            with ShardRehearsal(cluster_world, trace.setting, trace.first) as rehearsal:
                rehearsal.play(trace.path)
        except BaseException as error:
            error.add_note(f"seed {SEED!r}, trace {number}: {trace}")
            raise
        pairs |= {*trace.pairs}
        steps += len(trace.path)
    assert number == len(SCENARIOS) + WALKS
    assert {kind for _, kind in pairs} == KINDS
    add_to_summary(f"model of shards: {number} traces, {steps} steps, {len(pairs)} pairs of kinds of steps")
