"""What is dropped of the ledger, and when; what must survive it."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from threading import Event

import pytest

from viewer_pipeline.flush.redis_store import Marker
from viewer_pipeline.history import retention
from viewer_pipeline.history.daily import Window, stale_days
from viewer_pipeline.history.retention import (
    LedgerPlan,
    Pruned,
    first_day_kept,
    old_rejected,
    plan_ledger,
    prune_ledger,
    prune_rejected,
    settled_through,
)
from viewer_pipeline.monitoring.ledger_stats import LedgerFigures
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.world import World

MARCH = date(2026, 3, 1)
FOREVER = Marker(10**9, 1, 1)


@pytest.fixture
def history(world: World) -> History:
    """An empty ledger."""
    return History(world)


def three_days(history: History) -> None:
    """Commit two flushes on each of three days, two batches each, and add the days up."""
    for number in range(6):
        history.flush(at(MARCH + ONE * (number // 2)), {"a": number + 1, "b": 1, "c": 1})
    history.roll_up(MARCH, MARCH + ONE * 3)


def prune(history: History, limit: date, marker: Marker | None = FOREVER) -> Pruned:
    """Prune what is older than `limit`."""
    pruned: Pruned = history.ask(prune_ledger, limit, marker, 60)
    return pruned


def kept_from(history: History) -> str:
    """Return what ledger_kept says."""
    return str(history.world.rows("SELECT from_day::text FROM viewer.ledger_kept")[0][0])


def test_old_days_go_and_daily_views_stay(history: History) -> None:
    """Flushes and batches of whole days; the ledger says from when on it is whole."""
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


def test_the_newest_flush_stays(history: History) -> None:
    """However old: the next number follows it, and Redis' marker is compared with it."""
    three_days(history)
    assert prune(history, MARCH + ONE * 9).flushes == 5
    assert history.world.seqs() == [6]
    assert history.flush(at(MARCH + ONE * 9), {"a": 1}) == 7


def test_a_day_that_is_not_added_up_stays(history: History) -> None:
    """And all after it: the ledger is whole from one day on. Why is said."""
    for number in range(3):
        history.flush(at(MARCH + ONE * number), {"a": 1})
    history.roll_up(MARCH, MARCH + ONE)
    history.roll_up(MARCH + ONE * 2, MARCH + ONE * 3)
    plan: LedgerPlan = history.ask(plan_ledger, MARCH + ONE * 3, FOREVER)
    assert [day.day for day in plan.days] == [MARCH]
    assert plan.why_no_more == "2026-03-02 was never added up: materialize daily_views for it"
    assert prune(history, MARCH + ONE * 3).flushes == 1
    assert kept_from(history) == "2026-03-02"


def test_a_day_with_a_late_flush_stays(history: History) -> None:
    """Until it is added up again."""
    three_days(history)
    late = history.flush(at(MARCH, "23:59:59.9"), {"a": 100})
    assert prune(history, MARCH + ONE * 3) == Pruned()
    assert history.ask(stale_days, MARCH, MARCH + ONE * 3) == [Window(MARCH, MARCH + ONE)]
    history.roll_up(MARCH, MARCH + ONE)
    history.flush(at(MARCH + ONE * 3), {"a": 1})
    assert prune(history, MARCH + ONE).flushes == 3
    assert late not in history.world.seqs()
    assert history.daily()[MARCH, "a"] == 1 + 2 + 100


def test_a_flush_that_is_too_late_for_its_day_holds_nothing_up(history: History) -> None:
    """A clock that went wrong: the day is final, so it stays in the ledger, which is pruned on."""
    three_days(history)
    assert prune(history, MARCH + ONE).flushes == 2
    late = history.flush(at(MARCH), {"a": 100})
    history.flush(at(MARCH + ONE * 3), {"a": 1})
    assert prune(history, MARCH + ONE * 3).flushes == 4
    assert history.world.seqs() == [late, late + 1]
    assert kept_from(history) == "2026-03-04"


@pytest.mark.parametrize("marker", [None, Marker(1, 2, 2), Marker(2, 1, 2)])
def test_a_day_that_is_not_settled_stays(history: History, marker: Marker | None) -> None:
    """Its batches are what the next run subtracts from Redis."""
    three_days(history)
    assert prune(history, MARCH + ONE * 3, marker) == Pruned()
    plan: LedgerPlan = history.ask(plan_ledger, MARCH + ONE * 3, marker)
    where = f"the marker is at flush {marker.seq}" if marker else "Redis has no marker"
    assert plan.why_no_more == f"2026-03-01 is not settled: its last flush is 2, {where}"
    assert settled_through(Marker(2, 2, 2)) == 2


def test_what_is_not_settled_any_more_stays(history: History) -> None:
    """A Redis that fell back after the day had moved: the rest of the day is subtracted from it first."""
    three_days(history)
    history.world.execute("UPDATE viewer.ledger_kept SET from_day = %s", MARCH + ONE * 3)
    assert prune(history, MARCH + ONE * 3, Marker(4, 1, 2)).flushes == 3
    assert history.world.seqs() == [4, 5, 6]


def test_repairs_stay(history: History) -> None:
    """They are in no daily views: the ledger is their only record. Between two flushes of their day, and after them."""
    seqs = [
        history.flush(at(MARCH), {"a": 7}, mode=mode) for mode in ("sweep", "reconcile", "changed", "reconcile_target")
    ]
    newest = history.flush(at(MARCH + ONE), {"a": 1})
    history.roll_up(MARCH, MARCH + ONE)
    assert prune(history, MARCH + ONE) == Pruned(2, 2, 14)
    assert history.world.seqs() == [seqs[1], seqs[3], newest]


def test_pruning_that_stopped_half_way_goes_on(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of few flushes or few batches, until the time is over; nothing is deleted before the day has moved."""
    three_days(history)
    monkeypatch.setattr(retention, "FLUSHES_AT_ONCE", 1)
    assert history.ask(prune_ledger, MARCH + ONE * 3, FOREVER, -1) == Pruned(1, 2, 3, ended=False)
    assert kept_from(history) == "2026-03-04"
    monkeypatch.setattr(retention, "FLUSHES_AT_ONCE", 200)
    monkeypatch.setattr(retention, "BATCHES_AT_ONCE", 3)
    assert history.ask(prune_ledger, MARCH + ONE * 3, FOREVER, -1).flushes == 2
    assert prune(history, MARCH + ONE * 3) == Pruned(2, 4, 4 + 5 + 4)


def test_metrics_survive(history: History) -> None:
    """A worker that goes on, one that starts anew, and one that missed what was deleted say the same sums."""
    going_on, slow = LedgerFigures(history.world.stores.ledger), LedgerFigures(history.world.stores.ledger)
    history.flush(at(MARCH), {"a": 1})
    slow.read()
    for number in range(1, 5):
        history.flush(at(MARCH + ONE * number), {"a": 10, "b": 1})
    expected = going_on.read()
    history.roll_up(MARCH, MARCH + ONE * 9)
    assert prune(history, MARCH + ONE * 9).flushes == 4
    assert expected.flushes == Counter(sweep=5)
    assert expected.views == Counter(sweep=45)
    for figures in (going_on, slow, LedgerFigures(history.world.stores.ledger)):
        assert figures.read() == expected
    history.flush(at(MARCH + ONE * 5), {"a": 100})
    for figures in (going_on, slow, LedgerFigures(history.world.stores.ledger)):
        assert figures.read().views == Counter(sweep=145)


def test_a_month_is_pruned_while_flushes_commit(world: World, history: History) -> None:
    """None of them fails, no view is lost, and the sums are those of all that ever was."""
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
            flushes += len(world.flush().seqs)
        return flushes

    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(keep_flushing)
        try:
            pruned = Pruned()
            while pruned.flushes < 30:
                some: Pruned = history.ask(prune_ledger, first_day_kept(today, 30), FOREVER, 0)
                pruned = Pruned(pruned.flushes + some.flushes, 0, pruned.views + some.views)
        finally:
            done.set()
        flushed = flushing.result()
    assert pruned.views == past.total()
    world.assert_all_persisted()
    sums = LedgerFigures(world.stores.ledger).read()
    assert sums.views.total() == world.sent.total()
    assert sums.flushes.total() == 30 + flushed
    assert len(world.seqs()) == flushed


def test_rejected_input_is_forgotten(world: World, history: History) -> None:
    """The old; but for what says that parked views were given up."""
    row = "INSERT INTO viewer.rejected VALUES (%s, %s, 'x', '1', 'why', now() - make_interval(days => %s))"
    for number, (source, days) in enumerate([("message", 9), ("counter", 9), ("parked", 9), ("message", 1)]):
        world.execute(row, bytes([number]), source, days)
    assert history.ask(old_rejected, 5) == 2
    assert history.ask(prune_rejected, 5) == 2
    assert world.rows("SELECT source FROM viewer.rejected ORDER BY source") == [("message",), ("parked",)]
