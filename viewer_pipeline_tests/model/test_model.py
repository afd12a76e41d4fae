"""The model keeps the law in every state, and violates it if a rule or a measure is left out.

MODEL_DEPTH=2 explores larger bounds, in minutes instead of seconds.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from viewer_pipeline_tests.model import cluster_folding, folding, owners, stream_changes, sweeping
from viewer_pipeline_tests.model.design import BEFORE, CODE, RULES, Design
from viewer_pipeline_tests.model.explore import Explored, explore
from viewer_pipeline_tests.model.run import Bounds
from viewer_pipeline_tests.model.values import FIRST, Left, Marker, start

DEEP = int(os.environ.get("MODEL_DEPTH", "1")) > 1
MEASURES = Design()
WAITING = Design(wait=True)
STANDBY = Design(standby=True)

SMALL = {
    "calm": (1, 2, Left(sends=2, crashes=1, lost_replies=1, resent=1)),
    "calm, two flushes a run": (2, 2, Left(sends=1, crashes=1)),
    "emptied": (1, 2, Left(sends=2, emptied=2, crashes=1)),
    "restored": (1, 2, Left(sends=2, copies=1, restored=1, crashes=1)),
    "rolled back": (1, 2, Left(sends=2, dumps=1, rolled_back=1, crashes=1)),
    "rolled back and emptied": (1, 2, Left(sends=1, emptied=1, dumps=1, rolled_back=1)),
}
LARGE = {
    "calm, three runs": (1, 3, Left(sends=1, crashes=1)),
    "calm, two flushes a run, every fault of a client": (2, 2, Left(2, crashes=1, lost_replies=1, resent=1)),
    "emptied, three runs": (1, 3, Left(sends=1, emptied=1, crashes=1)),
    "emptied, two flushes a run": (2, 2, Left(sends=2, emptied=1)),
    "restored, three runs": (1, 3, Left(sends=1, copies=1, restored=1)),
    "restored, two flushes a run": (2, 2, Left(sends=1, copies=1, restored=1)),
    "emptied and restored": (1, 2, Left(sends=2, copies=1, restored=1, emptied=1)),
    "rolled back, three runs": (1, 3, Left(sends=1, dumps=1, rolled_back=1)),
    "rolled back, two flushes a run": (2, 2, Left(sends=1, dumps=1, rolled_back=1)),
}


def explored(
    vods: int, runs: int, left: Left, design: Design, *, refuses: bool = False, marker: Marker | None = FIRST
) -> Explored:
    """Explore with flushes of one and of two counters."""
    return explore(
        start(vods, runs, left, refuses=refuses, marker=marker), design, Bounds((1, 2) if vods > 1 else (1,))
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("wait", [False, True], ids=["", "waiting"])
@pytest.mark.parametrize("name", [*SMALL, *(LARGE if DEEP else ())])
def test_the_design_keeps_the_law(name: str, wait: bool) -> None:
    """In every state, also with more than one disaster."""
    result = explored(*(SMALL | LARGE)[name], replace(MEASURES, wait=wait))
    assert result.violation == "", "\n".join(map(str, result.trace))


BROKEN = {
    "R1": (1, 2, Left(crashes=1)),
    "R2": (1, 1, Left(sends=1)),
    "R3-order": (1, 2, Left()),
    "R3-unique": (1, 2, Left()),
    "R3-settle-first": (1, 2, Left(crashes=1)),
    "R4": (1, 2, Left(sends=1, crashes=1)),
    "R4-unmarked": (1, 1, Left(sends=1, resent=1)),
    "R5": (2, 1, Left()),
    "R6": (1, 2, Left(sends=1, rolled_back=1)),
    "R6-late": (1, 2, Left()),
    "R7": (1, 1, Left(sends=2, copies=1, restored=1)),
    "R8": (1, 1, Left(lost_replies=1)),
    "R11": (1, 1, Left()),
    "R16-skip": (1, 2, Left(copies=2, restored=2)),
    "R16-end": (1, 3, Left(restored=2)),
    "R18": (1, 1, Left(rolled_back=1)),
    "R18-earlier": (1, 2, Left(crashes=1, rolled_back=1)),
    "ADR2": (2, 1, Left(sends=1, copies=1, restored=1)),
}


def design_with(rule: str) -> Design:
    """Return a design that needs a rule."""
    if rule == "R6-late":  # it needs a marker that is read once: the second read would detect it, too
        return BEFORE
    if rule.startswith("R16"):  # to wait for replicas would renew the copy without a marker
        return MEASURES
    return STANDBY if rule.startswith("R18") else WAITING


def test_every_rule_has_a_counterexample() -> None:
    """None is missing."""
    assert list(BROKEN) == list(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_violates_the_law(rule: str) -> None:
    """And only the broken rule does: without it, the same bounds show no violation."""
    design = design_with(rule)
    servers: Any = {"refuses": rule == "R11", "marker": None if rule.startswith("R16") else FIRST}
    assert explored(*BROKEN[rule], design, **servers).violation == ""
    assert explored(*BROKEN[rule], replace(design, broken=rule), **servers).violation != ""


NOT_HOLDING = replace(MEASURES, hold=False)  # what is held does not count twice: so that only the measure shows
WITHOUT = {
    "no epoch": (replace(NOT_HOLDING, epoch=False), SMALL["emptied"], "a reader misses"),
    "an epoch and no second read of the marker": (replace(NOT_HOLDING, recheck=""), SMALL["emptied"], "doubled"),
    "a second read, of the epoch only": (replace(NOT_HOLDING, recheck="epoch"), SMALL["restored"], "doubled"),
    "a second read, of epoch and position": (replace(NOT_HOLDING, recheck="position"), SMALL["restored"], "doubled"),
    "no line": (replace(NOT_HOLDING, line=False), SMALL["rolled back"], "doubled"),
}


@pytest.mark.parametrize("measure", WITHOUT)
def test_a_missing_measure_violates_the_law(measure: str) -> None:
    """Each measure against a disaster is needed: docs/adr/0007-epoch-of-the-marker.md."""
    design, bounds, violation = WITHOUT[measure]
    assert explored(*bounds, design).violation.startswith(violation)


@pytest.mark.parametrize("disaster", ["emptied", "restored", "rolled back"])
def test_disasters_that_the_code_survives(disaster: str) -> None:
    """Also during a run. The code detects another server by its connection."""
    assert explored(*SMALL[disaster], replace(CODE, recheck="server")).violation == ""


@pytest.mark.parametrize("disaster", ["emptied", "restored", "rolled back"])
def test_the_code_survives_disasters_between_runs(disaster: str) -> None:
    """One run at a time, none of which dies: the design of the code is enough."""
    vods, _, left = SMALL[disaster]
    bounds = Bounds((1,), between_runs=True)
    assert explore(start(vods, 2, left._replace(crashes=0)), CODE, bounds).violation == ""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["rolled back", *(["rolled back, two flushes a run"] if DEEP else ())])
def test_nothing_is_lost_that_is_settled_once_standbys_have_it(name: str) -> None:
    """Whatever state PostgreSQL falls back to, if it is what a standby had, and Redis loses nothing meanwhile."""
    assert explored(*(SMALL | LARGE)[name], STANDBY).violation == ""


COPIES_WITHOUT_MARKER = {
    "two runs": (1, 2, Left(sends=2, restored=1, crashes=1)),
    "two flushes a run": (2, 1, Left(sends=1, restored=1, crashes=1)),
    "emptied, then restored": (1, 2, Left(sends=1, emptied=1, copies=1, restored=1)),
    "and PostgreSQL rolled back": (1, 2, Left(sends=1, restored=1, dumps=1, rolled_back=1)),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", COPIES_WITHOUT_MARKER)
def test_views_of_a_copy_without_a_marker_are_held(name: str) -> None:
    """Redis falls back to before the first run; without R16 its views count twice."""
    vods, runs, left = COPIES_WITHOUT_MARKER[name]
    first, bounds = start(vods, runs, left, marker=None), Bounds((1, 2) if vods > 1 else (1,))
    result = explore(first, MEASURES, bounds)
    assert result.violation == "", "\n".join(map(str, result.trace))
    assert explore(first, replace(MEASURES, hold=False), bounds).violation.startswith("doubled")


def test_both_servers_fall_back_during_a_run() -> None:
    """Redis loses the line with the rest: only replicas that have the counters read (R7) prevent this."""
    both = 1, 2, Left(sends=1, copies=1, restored=1, dumps=1, rolled_back=1)
    assert explored(*both, MEASURES).violation.startswith("doubled")
    assert explored(*both, WAITING).violation == ""


def test_folding_counts_no_message_twice() -> None:
    """Two subscribers, an expired lease, a crash, a lost connection, a script that is sent twice."""
    states, violation, trace = folding.explore(first=folding.Channel(sends=2 if DEEP else 1))
    assert (violation, trace) == ("", [])
    assert states > 10_000


def test_folding_misses_no_message_without_faults() -> None:
    """With a lease that changes hands."""
    calm = folding.Channel(breaks=0, crashes=0, calm=True)
    assert folding.explore(first=calm)[1:] == ("", [])


def test_the_token_of_the_lease_only_saves_work() -> None:
    """Without it, numbers keep the count correct."""
    assert folding.explore("token")[1] == ""


@pytest.mark.parametrize("rule", folding.RULES)
def test_a_broken_rule_of_folding_counts_twice(rule: str) -> None:
    """One at a time."""
    assert "was counted 2 times" in folding.explore(rule)[1]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*cluster_folding.SCENES, *(cluster_folding.LARGE if DEEP else ())])
def test_no_message_has_two_numbers_in_a_cluster(name: str) -> None:
    """Two nodes with orders of their own, a home slot that moves, lost connections."""
    states, violation, trace = cluster_folding.explore(first=(cluster_folding.SCENES | cluster_folding.LARGE)[name])
    assert (violation, trace) == ("", [])
    assert states > 5_000


def test_every_rule_of_cuts_in_a_cluster_has_a_counterexample() -> None:
    """None is missing."""
    assert cluster_folding.BROKEN.keys() == cluster_folding.RULES.keys()


@pytest.mark.parametrize("rule", cluster_folding.RULES)
def test_a_broken_rule_of_cuts_in_a_cluster_gives_two_numbers(rule: str) -> None:
    """One at a time."""
    scene = cluster_folding.SCENES[cluster_folding.BROKEN[rule]]
    assert "numbers" in cluster_folding.explore(rule, scene)[1]


@pytest.mark.parametrize("name", owners.SCENES)
def test_one_ledger_counts_what_is_in_one_redis(name: str) -> None:
    """With every kind of copy, and every order of the calls of both ledgers' runs."""
    states, violation, trace = owners.explore(owners.SCENES[name])
    assert (violation, trace) == ("", [])
    assert states > 1000


def test_every_rule_of_ownership_has_a_counterexample() -> None:
    """None is missing."""
    assert tuple(owners.BROKEN) == owners.RULES


@pytest.mark.parametrize("rule", owners.RULES)
def test_a_broken_rule_of_ownership_violates_the_law(rule: str) -> None:
    """One at a time."""
    assert owners.explore(owners.SCENES[owners.BROKEN[rule]]._replace(broken=rule))[1] != ""


def test_copies_of_both_servers_that_begin_too_early() -> None:
    """A known gap: both servers are in the same state after a run that died before it settled."""
    early = owners.SCENES["a physical copy that flushed elsewhere"]._replace(early=True)
    assert "views counted" in owners.explore(early)[1]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*sweeping.SCENES, *(sweeping.LARGE if DEEP else ())])
def test_a_fulfilled_request_covered_all_counters(name: str) -> None:
    """In one run or several, in whatever order they read and store positions, and across restarts of Redis."""
    states, violation, trace = sweeping.explore((sweeping.SCENES | sweeping.LARGE)[name])
    assert (violation, trace) == ("", [])
    assert states > 10_000


def test_comparing_the_position_of_a_sweep_only_saves_work() -> None:
    """A position is true on its own."""
    assert sweeping.explore(sweeping.SCENES["crashes"], "compare")[1] == ""


def test_every_rule_of_sweeps_has_a_counterexample() -> None:
    """None is missing."""
    assert list(sweeping.BROKEN) == list(sweeping.RULES)


@pytest.mark.parametrize("rule", sweeping.RULES)
def test_a_broken_rule_of_sweeps_leaves_counters_out(rule: str) -> None:
    """One at a time."""
    assert "was fulfilled without" in sweeping.explore(sweeping.SCENES[sweeping.BROKEN[rule]], rule)[1]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*stream_changes.SCENES, *(stream_changes.LARGE if DEEP else ())])
def test_a_change_of_the_streams_keeps_the_law(name: str) -> None:
    """Beside runs, another change, crashes, and a fallback of one of the servers."""
    states, violation, trace = stream_changes.explore((stream_changes.SCENES | stream_changes.LARGE)[name])
    assert (violation, trace) == ("", [])
    assert states > 400


def test_every_rule_of_changes_of_the_streams_has_a_counterexample() -> None:
    """None is missing."""
    assert stream_changes.BROKEN.keys() == stream_changes.RULES.keys()


@pytest.mark.parametrize("rule", stream_changes.RULES)
def test_a_broken_rule_of_changes_of_the_streams_violates_the_law(rule: str) -> None:
    """One at a time."""
    scene = stream_changes.SCENES[stream_changes.BROKEN[rule]]
    assert "views are" in stream_changes.explore(scene, rule)[1]
