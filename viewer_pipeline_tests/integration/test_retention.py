"""Retention: which days of the ledger are pruned, and what must be kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from datetime import UTC, date, datetime
from threading import Event

import pytest

from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.history import pruning
from viewer_pipeline.history.daily_rollup import find_windows_to_roll_up
from viewer_pipeline.history.days import Window
from viewer_pipeline.history.pruning import (
    LedgerPruningPlan,
    Pruned,
    count_old_rejected,
    first_day_kept,
    plan_ledger_pruning,
    prune_ledger,
    prune_rejected,
    settled_flushes,
)
from viewer_pipeline.monitoring.ledger_totals import LedgerTotalsReader
from viewer_pipeline.streams import NUMBERS
from viewer_pipeline_tests.support.ledger_world import ONE, UTC_DAYS, History, at
from viewer_pipeline_tests.support.world import World

MARCH = date(2026, 3, 1)
FOREVER = [Marker(10**9, 1, 1)]


@pytest.fixture
def history(world: World) -> History:
    """An empty ledger."""
    return History(world)


def three_days(history: History) -> None:
    """Commit two flushes of two batches on each of three days, and roll the days up."""
    for number in range(6):
        history.flush(at(MARCH + ONE * (number // 2)), {"a": number + 1, "b": 1, "c": 1})
    history.roll_up(MARCH, MARCH + ONE * 3)


def prune(history: History, limit: date, markers: Sequence[Marker] = FOREVER) -> Pruned:
    """Prune the ledger before `limit`."""
    pruned: Pruned = history.call(prune_ledger, limit, markers, 60, history.zone)
    return pruned


def kept_from(history: History) -> str:
    """Return the day from which the ledger is complete."""
    return str(history.world.rows("SELECT from_day::text FROM viewer.ledger_kept")[0][0])


def test_prune_ledger_keeps_daily_views(history: History) -> None:
    """Flushes and batches of whole days are deleted, their daily views are kept and final."""
    three_days(history)
    rows = history.daily()
    assert prune(history, MARCH + ONE * 2) == Pruned(4, 8, 1 + 2 + 3 + 4 + 4 * 2)
    assert history.world.seqs() == [5, 6]
    assert history.world.rows("SELECT count(*) FROM viewer.flush_batch") == [(4,)]
    assert kept_from(history) == "2026-03-03"
    assert history.daily() == rows
    assert history.roll_up(MARCH, MARCH + ONE * 3).final == [MARCH, MARCH + ONE]
    assert history.daily() == rows
    assert prune(history, MARCH + ONE * 2) == Pruned()


def test_prune_ledger_keeps_the_newest_flush(history: History) -> None:
    """The next flush continues its number, and the marker in Redis is compared with it."""
    three_days(history)
    assert prune(history, MARCH + ONE * 9).flushes == 5
    assert history.world.seqs() == [6]
    assert history.flush(at(MARCH + ONE * 9), {"a": 1}) == 7


def test_prune_ledger_stops_at_a_day_that_is_not_rolled_up(history: History) -> None:
    """Later days are kept too, because the ledger is complete from one day on; the plan has the reason."""
    for number in range(3):
        history.flush(at(MARCH + ONE * number), {"a": 1})
    history.roll_up(MARCH, MARCH + ONE)
    history.roll_up(MARCH + ONE * 2, MARCH + ONE * 3)
    plan: LedgerPruningPlan = history.call(plan_ledger_pruning, MARCH + ONE * 3, FOREVER, UTC_DAYS)
    assert [day.day for day in plan.days] == [MARCH]
    assert plan.stop_reason == "2026-03-02 was never rolled up: materialize daily_views for it"
    assert prune(history, MARCH + ONE * 3).flushes == 1
    assert kept_from(history) == "2026-03-02"


def test_prune_ledger_keeps_a_stale_day(history: History) -> None:
    """A day with a late flush is kept until it is rolled up again."""
    three_days(history)
    late = history.flush(at(MARCH, "23:59:59.9"), {"a": 100})
    assert prune(history, MARCH + ONE * 3) == Pruned()
    assert history.call(find_windows_to_roll_up, MARCH, MARCH + ONE * 3, UTC_DAYS) == [Window(MARCH, MARCH + ONE)]
    history.roll_up(MARCH, MARCH + ONE)
    history.flush(at(MARCH + ONE * 3), {"a": 1})
    assert prune(history, MARCH + ONE).flushes == 3
    assert late not in history.world.seqs()
    assert history.daily()[MARCH, "a"] == 1 + 2 + 100


def test_prune_ledger_keeps_a_flush_of_a_pruned_day(history: History) -> None:
    """A flush that comes after its day was pruned (a wrong clock) is kept, and later days are pruned nevertheless."""
    three_days(history)
    assert prune(history, MARCH + ONE).flushes == 2
    late = history.flush(at(MARCH), {"a": 100})
    history.flush(at(MARCH + ONE * 3), {"a": 1})
    assert prune(history, MARCH + ONE * 3).flushes == 4
    assert history.world.seqs() == [late, late + 1]
    assert kept_from(history) == "2026-03-04"


@pytest.mark.parametrize(
    ("markers", "reason"),
    [
        ([], "it has flush 1, Redis has no marker"),
        ([Marker(1, 2, 2)], "it has flush 2, the marker is at flush 1"),
        ([Marker(2, 1, 2)], "it has flush 2, the marker is at flush 2"),
    ],
)
def test_prune_ledger_stops_at_a_day_that_is_not_settled(
    history: History, markers: Sequence[Marker], reason: str
) -> None:
    """The next run still has to subtract its batches from Redis."""
    three_days(history)
    assert prune(history, MARCH + ONE * 3, markers) == Pruned()
    plan: LedgerPruningPlan = history.call(plan_ledger_pruning, MARCH + ONE * 3, markers, UTC_DAYS)
    assert plan.stop_reason == f"2026-03-01 is not settled: {reason}"


def test_settled_flushes_of_several_streams() -> None:
    """A flush with batches that are not settled is not among them, nor is the last one, where it is to be kept."""
    markers = [Marker(2, 2, 2), Marker(NUMBERS, 0, 0), Marker(2 * NUMBERS + 7, 1, 3)]
    assert settled_flushes(markers) == "{[0,2],[1000000000000,1000000000000],[2000000000000,2000000000006]}"
    assert settled_flushes(markers, keep_last=True) == "{[0,1],[2000000000000,2000000000005]}"


def test_prune_ledger_keeps_flushes_after_a_rollback_of_redis(history: History) -> None:
    """If Redis falls back to an older marker during the pruning, flushes after that marker are kept."""
    three_days(history)
    history.keep_ledger_from(MARCH + ONE * 3)
    assert prune(history, MARCH + ONE * 3, [Marker(4, 1, 2)]).flushes == 3
    assert history.world.seqs() == [4, 5, 6]


def test_prune_ledger_keeps_repairs(history: History) -> None:
    """Repairs are not in the daily views: the ledger is their only record."""
    seqs = [
        history.flush(at(MARCH), {"a": 7}, mode=mode) for mode in ("sweep", "reconcile", "changed", "reconcile_target")
    ]
    newest = history.flush(at(MARCH + ONE), {"a": 1})
    history.roll_up(MARCH, MARCH + ONE)
    assert prune(history, MARCH + ONE) == Pruned(2, 2, 14)
    assert history.world.seqs() == [seqs[1], seqs[3], newest]


def test_prune_ledger_resumes(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """It deletes in chunks, bounded by flushes and by batches, until its time is over; the next call continues."""
    three_days(history)
    monkeypatch.setattr(pruning, "CHUNK_FLUSHES", 1)
    assert history.call(prune_ledger, MARCH + ONE * 3, FOREVER, -1, UTC_DAYS) == Pruned(1, 2, 3, complete=False)
    assert kept_from(history) == "2026-03-04"
    monkeypatch.setattr(pruning, "CHUNK_FLUSHES", 200)
    monkeypatch.setattr(pruning, "CHUNK_BATCHES", 3)
    assert history.call(prune_ledger, MARCH + ONE * 3, FOREVER, -1, UTC_DAYS).flushes == 2
    assert prune(history, MARCH + ONE * 3) == Pruned(2, 4, 4 + 5 + 4)


def test_metrics_include_pruned_flushes(history: History) -> None:
    """A running worker, a new one, and one that missed the deleted flushes report the same counters."""
    going_on, slow = LedgerTotalsReader(history.world.stores.ledger), LedgerTotalsReader(history.world.stores.ledger)
    history.flush(at(MARCH), {"a": 1})
    slow.read()
    for number in range(1, 5):
        history.flush(at(MARCH + ONE * number), {"a": 10, "b": 1})
    expected = deepcopy(going_on.read())
    history.roll_up(MARCH, MARCH + ONE * 9)
    assert prune(history, MARCH + ONE * 9).flushes == 4
    assert expected.totals.flushes == Counter(sweep=5)
    assert expected.totals.views == Counter(sweep=45)
    for stats in (going_on, slow, LedgerTotalsReader(history.world.stores.ledger)):
        assert stats.read() == expected
    history.flush(at(MARCH + ONE * 5), {"a": 100})
    for stats in (going_on, slow, LedgerTotalsReader(history.world.stores.ledger)):
        assert stats.read().totals.views == Counter(sweep=145)


def test_prune_ledger_while_flushes_commit(world: World, history: History) -> None:
    """No flush fails, no view is lost, and metrics include all flushes."""
    today = datetime.now(UTC).date()
    past = Counter[str]()
    for number in range(30):
        history.flush(at(today - ONE * (60 - number)), {f"vod{number:04d}": 5, "a": 2})
        past += Counter({f"vod{number:04d}": 5, "a": 2})
    world.sent += past
    history.roll_up(today - ONE * 70, today + ONE)
    done = Event()

    def keep_flushing() -> int:
        flushes = 0
        while not (done.is_set() and flushes > 10):
            world.send_many(6)
            # Redis has no marker beside this ledger: what comes in may look as if it had been counted.
            flushes += len(world.flush(redis_without_marker="count").seqs)
        return flushes

    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(keep_flushing)
        try:
            pruned = Pruned()
            while pruned.flushes < 30:
                chunk: Pruned = history.call(prune_ledger, first_day_kept(today, 30), FOREVER, 0, UTC_DAYS)
                pruned = Pruned(pruned.flushes + chunk.flushes, 0, pruned.views + chunk.views)
        finally:
            done.set()
        flushed = flushing.result()
    assert pruned.views == past.total()
    world.assert_all_persisted()
    metrics = LedgerTotalsReader(world.stores.ledger).read().totals
    assert metrics.views.total() == world.sent.total()
    assert metrics.flushes.total() == 30 + flushed
    assert len(world.seqs()) == flushed


def test_prune_rejected_keeps_records_of_parked_views(world: World, history: History) -> None:
    """Old rejected input is deleted, but not the records of discarded or pruned parked views."""
    row = "INSERT INTO viewer.rejected VALUES (%s, %s, 'x', '1', 'reason', now() - make_interval(days => %s))"
    for number, (source, days) in enumerate([("message", 9), ("counter", 9), ("parked", 9), ("message", 1)]):
        world.execute(row, bytes([number]), source, days)
    assert history.call(count_old_rejected, 5) == 2
    assert history.call(prune_rejected, 5) == 2
    assert world.rows("SELECT source FROM viewer.rejected ORDER BY source") == [("message",), ("parked",)]
