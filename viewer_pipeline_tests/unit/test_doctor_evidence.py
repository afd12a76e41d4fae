"""The doctor's sums: what was heard, what was folded of it, what counters gained; and what follows from them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from viewer_pipeline.ingest.segment_parts import part_of
from viewer_pipeline.monitoring.doctor.evidence import Evidence, Sight
from viewer_pipeline.monitoring.doctor.finding import Finding
from viewer_pipeline.monitoring.doctor.pubsub_mode import Heard, judge_producers
from viewer_pipeline.monitoring.doctor.traffic import Folds, Traffic
from viewer_pipeline.setting_types import PubSubMode
from viewer_pipeline_tests.support.subscribers import message

CHANNEL, CUTS = b"views", b"viewer:cuts:x"


def traffic(*heard: str | int) -> Traffic:
    """Return traffic after messages (VOD ids) and cuts (numbers)."""
    found = Traffic(CHANNEL, CUTS)
    for one in heard:
        if isinstance(one, int):
            found.hear(CUTS, f"{one} 0".encode())
        else:
            found.hear(CHANNEL, message(one))
    return found


def through(folded: int, segment: int = 0, part: int = 0, of: int = 0) -> Folds:
    """Return how far the worker has folded."""
    return Folds(folded, segment, part, of)


def test_what_is_heard() -> None:
    """Views by VOD since the last look; rubbish is counted apart; other channels are nothing to us."""
    found = traffic("a", "b", "a")
    found.hear(CHANNEL, b"rubbish")
    found.hear(b"other", message("c"))
    found.hear(CUTS, b"released")
    assert (found.messages, found.views, found.rejected) == (4, 3, 1)
    assert found.take() == {"a": 2, "b": 1}
    assert found.take() == {}


def test_segments_that_were_heard_whole() -> None:
    """Of a segment that began before the doctor listened, nothing is known."""
    found = traffic("a", 7, "b", 8, "c", "c", 9, "d")
    assert found.folded(through(6), through(7)) is None
    assert found.folded(through(7), through(7)) == {}
    assert found.folded(through(7), through(9)) == {"b": 1, "c": 2}


def test_folds_without_a_cut() -> None:
    """Folds that end before anything was heard of them are not known; no folds are none."""
    found = traffic("a")
    assert found.folded(through(3), through(3)) == {}
    assert found.folded(through(3), through(4)) is None


def test_a_segment_in_parts() -> None:
    """What is folded of it at a look is known by the hash of the ids, and the rest comes later."""
    ids = [f"v{number}" for number in range(50)]
    found = traffic(7, *ids, 8, "last", 9)
    looks = [through(7), through(7, 8, 1, 3), through(7, 8, 2, 3), through(8, 8, 3, 3), through(9, 9, 1, 1)]
    parts = [found.folded(before, now) for before, now in pairwise(looks)]
    expected = [{vod_id for vod_id in ids if part_of(vod_id, 3) == part} for part in (1, 2, 3)]
    assert [set(part or ()) for part in parts] == [*expected, {"last"}]
    assert all(expected)


def test_a_redis_that_lost_its_numbers() -> None:
    """Cuts that begin anew: what was heard before belongs to none of them."""
    found = traffic(7, "a", 8, "b", 2, "c", 3)
    assert found.folded(through(8), through(2)) is None
    assert found.folded(through(2), through(3)) == {"c": 1}


def test_gains_are_told_apart_from_settling() -> None:
    """What a flush subtracted is added again; VODs that were not in both looks are left out."""
    evidence = Evidence()
    evidence.add({"a": 10, "b": 1}, {"a": 3, "b": 1, "c": 9}, Counter(a=2, c=9), Counter(), Counter(a=9))
    assert (evidence.gained, evidence.heard) == ({"a": 2}, {"a": 2})
    assert evidence.counted(worker_adds=False) == {"a": 2}
    assert evidence.unheard() == {}


def test_counters_that_others_lower() -> None:
    """They are named and not compared."""
    evidence = Evidence()
    evidence.add({"a": 10}, {"a": 0}, Counter(a=2), Counter(), Counter())
    assert (evidence.lowered, evidence.heard) == ({"a"}, {})
    found = judge(evidence, "announce")
    assert "1 counters were lowered, and not by a flush" in found.what


def evidence_of(*pairs: tuple[int, int, int]) -> Evidence:
    """Return the evidence of one VOD: views that were heard, folded, gained, look by look."""
    evidence, count = Evidence(), 0
    for heard, folded, gained in pairs:
        before, count = count, count + gained
        evidence.add({"a": before}, {"a": count}, Counter(a=heard), Counter(a=folded), Counter())
    return evidence


@pytest.mark.parametrize(
    ("pairs", "adds"),
    [
        ([(3, 0, 0), (0, 3, 3), (2, 0, 0), (1, 3, 3)], True),  # only the worker counts
        ([(3, 0, 3), (0, 3, 3), (2, 0, 2), (1, 3, 4)], True),  # both do
        ([(3, 0, 3), (0, 3, 0), (2, 0, 2), (1, 3, 1)], False),  # only the producers
        ([(3, 0, 0), (0, 3, 0), (2, 0, 0), (1, 3, 0)], False),  # nobody
        ([(3, 3, 3), (2, 2, 2)], None),  # who? It is folded as soon as it is heard
        ([(3, 0, 3), (2, 0, 2)], None),  # no worker
        ([], None),
    ],
)
def test_whether_the_worker_adds(pairs: list[tuple[int, int, int]], adds: bool | None) -> None:
    """It is seen in when the counters rise."""
    assert evidence_of(*pairs).worker_adds() is adds


def judge(evidence: Evidence, mode: PubSubMode, messages: int = 10, others: int = 0) -> Finding:
    """Return the verdict."""
    return judge_producers(Heard(10.0, messages, 0, messages, evidence, "views", mode, others))


@pytest.mark.parametrize(
    ("pairs", "mode", "state", "needs"),
    [
        ([(9, 0, 9)], "announce", "ok", "announce"),
        ([(9, 0, 9)], "increment", "problem", "announce"),
        ([(100, 0, 99)], "increment", "problem", "announce"),
        ([(9, 0, 0)], "increment", "ok", "increment"),
        ([(9, 0, 0)], "announce", "problem", "increment"),
        ([(1, 0, 0)], "announce", "problem", "increment"),
        ([(1, 0, 1)], "increment", "problem", "announce"),
        ([(10, 0, 5)], "announce", "problem", "mixed"),
        ([(3, 0, 2)], "announce", "note", "unknown"),
        ([], "announce", "note", "unknown"),
        ([(9, 0, 18)], "announce", "problem", "announce"),
        ([(5, 0, 5), (0, 5, 5)], "increment", "problem", "announce"),  # doubled, just now
        ([(5, 0, 0), (0, 5, 5)], "increment", "ok", "increment"),
    ],
)
def test_verdicts(pairs: list[tuple[int, int, int]], mode: PubSubMode, state: str, needs: str) -> None:
    """What was gained beside folds, held against what was heard."""
    found = judge(evidence_of(*pairs), mode)
    assert (found.state, found.figures["needs"]) == (state, needs), found.what


@pytest.mark.parametrize(
    ("sights", "mode", "needs"),
    [
        ([(1, 0, 1)] * 3, "announce", "announce"),
        ([(1, 0, 0)] * 3, "increment", "increment"),
        ([(1, 1, 1)] * 3, "increment", "increment"),  # the worker put it there
        ([(1, 1, 2)] * 3, "increment", "announce"),  # it was there, and the worker added it again
        ([(1, 0, 0)] * 3 + [(1, 0, 7)] * 9, "increment", "increment"),  # others had been raised before
        ([(1, 0, 1)] * 2, "announce", "unknown"),
        ([(1, 0, 1)] * 3 + [(1, 0, 0)], "announce", "unknown"),
        ([(1, 0, 7)] * 9, "announce", "unknown"),
    ],
)
def test_first_sights(sights: list[tuple[int, int, int]], mode: PubSubMode, needs: str) -> None:
    """Where no VOD was heard of twice: heard, folded, and what its counter held."""
    found = judge(Evidence(sights=[Sight(*sight) for sight in sights]), mode)
    assert found.figures["needs"] == needs, found.what


def test_the_verdict_shows_its_evidence() -> None:
    """Messages, views, VODs, and who added them."""
    found = judge(evidence_of((5, 0, 5), (0, 5, 5)), "increment")
    assert found.what == (
        "your producers already count: use announce (10 messages with 10 views in 10 s; of 1 VODs 5 views could be"
        " compared: producers added 5 themselves, a worker folded 5)"
    )
    assert found.do.startswith("set PUBSUB_MODE=announce and restart the worker")


def test_no_traffic_but_counters_that_rise() -> None:
    """Producers that only INCR: either mode is right."""
    found = judge(evidence_of((0, 0, 7)), "increment", messages=0)
    assert (found.state, found.figures["needs"], found.figures["unheard_views"]) == ("note", "no traffic", 7)
    assert "1 counters gained 7 views that nobody announced; sweeps find those" in found.what
