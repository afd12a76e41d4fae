"""Daily views: the ledger rolled up by day and VOD."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from viewer_pipeline.history import daily_rollup
from viewer_pipeline.history.daily_rollup import (
    Day,
    days_unequal_to_ledger,
    find_windows_to_roll_up,
    rolled_up_days,
)
from viewer_pipeline.history.days import Window
from viewer_pipeline.stores.named_queries import fetch_one
from viewer_pipeline_tests.support.ledger_world import ONE, UTC_DAYS, History, at
from viewer_pipeline_tests.support.world import World

MARCH = date(2026, 3, 1)


@pytest.fixture
def history(world: World) -> History:
    """An empty ledger."""
    return History(world)


def test_roll_up_by_day_and_vod(history: History) -> None:
    """Sums over flushes and batches, leaves out repairs, and records the numbers of the day."""
    history.flush(at(MARCH), {"a": 1, "b": 2, "c": 3})
    history.flush(at(MARCH, "23:59:59.999999"), {"a": 10})
    history.flush(at(MARCH), {"a": 1000}, mode="reconcile")
    history.flush(at(MARCH + ONE, "00:00:00"), {"a": 100})
    assert history.roll_up(MARCH, MARCH + ONE).rolled_up == [MARCH]
    assert history.daily() == {(MARCH, "a"): 11, (MARCH, "b"): 2, (MARCH, "c"): 3}
    window = Window(MARCH, MARCH + ONE)
    assert history.call(rolled_up_days, window) == [
        Day(MARCH, 3, 16, True, 2, 16, 0, at(MARCH, "00:00"), at(MARCH + ONE, "00:00"))
    ]
    assert history.call(days_unequal_to_ledger, window) == []


def test_roll_up_is_idempotent(history: History) -> None:
    """A range, the range again, and its days one by one give the same rows."""
    for number in range(9):
        history.flush(at(MARCH + ONE * (number % 5)), {"a": number + 1, f"vod{number}": 7})
    history.roll_up(MARCH, MARCH + ONE * 6)
    rows = history.daily()
    assert sum(rows.values()) == sum(range(1, 10)) + 9 * 7
    assert len({day for day, _ in rows}) == 5
    history.roll_up(MARCH, MARCH + ONE * 6)
    assert history.daily() == rows
    history.world.execute("DELETE FROM viewer.daily_views")
    for number in range(6):
        history.roll_up(MARCH + ONE * number, MARCH + ONE * (number + 1))
    assert history.daily() == rows
    assert [day.views for day in history.call(rolled_up_days, Window(MARCH, MARCH + ONE * 6))][-1] == 0


def test_late_flush_makes_its_day_stale(history: History) -> None:
    """A flush of 23:59:59.9 that commits after midnight makes its own day stale; the next rollup includes it."""
    history.flush(at(MARCH), {"a": 1})
    history.roll_up(MARCH, MARCH + ONE)
    history.flush(at(MARCH + ONE, "00:00:01"), {"a": 5})
    history.roll_up(MARCH + ONE, MARCH + ONE * 2)
    assert history.call(find_windows_to_roll_up, MARCH, MARCH + ONE, UTC_DAYS) == []
    history.flush(at(MARCH, "23:59:59.9"), {"a": 2})
    assert history.call(find_windows_to_roll_up, MARCH, MARCH + ONE, UTC_DAYS) == [Window(MARCH, MARCH + ONE)]
    (day,) = history.call(rolled_up_days, Window(MARCH, MARCH + ONE))
    assert (day.views, day.late_flushes) == (1, 1)
    history.roll_up(MARCH, MARCH + ONE)
    assert history.daily() == {(MARCH, "a"): 3, (MARCH + ONE, "a"): 5}
    assert history.call(find_windows_to_roll_up, MARCH, MARCH + ONE, UTC_DAYS) == []


def test_stale_days_returns_windows(history: History) -> None:
    """Adjacent days are one window; repairs make no day stale; days outside the range are left out."""
    for number in (0, 1, 3, 9):
        history.flush(at(MARCH + ONE * number), {"a": 1})
    history.flush(at(MARCH + ONE * 5), {"a": 1}, mode="reconcile")
    expected = [Window(MARCH, MARCH + ONE * 2), Window(MARCH + ONE * 3, MARCH + ONE * 4)]
    assert history.call(find_windows_to_roll_up, MARCH, MARCH + ONE * 7, UTC_DAYS) == expected


def test_roll_up_keeps_pruned_days(history: History) -> None:
    """Days whose ledger was pruned are final; the rest of the range is rolled up."""
    history.flush(at(MARCH), {"a": 1})
    history.flush(at(MARCH + ONE), {"a": 2})
    history.roll_up(MARCH, MARCH + ONE * 2)
    history.keep_ledger_from(MARCH + ONE)
    history.world.execute("DELETE FROM viewer.flush_batch WHERE seq = 1")
    history.world.execute("UPDATE viewer.daily_views SET views = 0 WHERE day = %s", MARCH + ONE)
    result = history.roll_up(MARCH, MARCH + ONE * 2)
    assert (result.final, result.rolled_up) == ([MARCH], [MARCH + ONE])
    assert history.daily() == {(MARCH, "a"): 1, (MARCH + ONE, "a"): 2}
    assert history.roll_up(MARCH, MARCH + ONE).rolled_up == []
    assert history.call(find_windows_to_roll_up, MARCH, MARCH + ONE, UTC_DAYS) == []


def test_unequal_days_returns_both_numbers(history: History) -> None:
    """A day whose rows differ from its ledger is returned with both numbers of views."""
    history.flush(at(MARCH), {"a": 1})
    history.roll_up(MARCH, MARCH + ONE)
    history.world.execute("UPDATE viewer.daily_views SET views = 7")
    assert history.call(days_unequal_to_ledger, Window(MARCH, MARCH + ONE)) == [(MARCH, 7, 1)]


def test_roll_up_leaves_out_concurrent_flushes(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that commits between the statements of a rollup is in none of them, and makes the day stale."""
    history.flush(at(MARCH), {"a": 1})

    def fetch_and_flush(*arguments: Any, **parameters: Any) -> Any:
        row = fetch_one(*arguments, **parameters)
        history.flush(at(MARCH), {"a": 10})
        return row

    monkeypatch.setattr(daily_rollup, "fetch_one", fetch_and_flush)
    history.roll_up(MARCH, MARCH + ONE)
    monkeypatch.undo()
    assert history.daily() == {(MARCH, "a"): 1}
    assert history.call(days_unequal_to_ledger, Window(MARCH, MARCH + ONE)) == []
    assert history.call(find_windows_to_roll_up, MARCH, MARCH, UTC_DAYS) == [Window(MARCH, MARCH + ONE)]


def test_trending_covers_recent_days(history: History) -> None:
    """The view sums 1, 7 and 30 days, today included."""
    today = datetime.now(UTC).date()
    for ago, views in ((0, 1), (1, 10), (6, 100), (7, 1000), (29, 10_000), (30, 100_000)):
        history.flush(at(today - ONE * ago), {"a": views})
    history.flush(at(today - ONE * 8), {"b": 5})
    history.roll_up(today - ONE * 40, today + ONE)
    assert history.world.rows("SELECT * FROM viewer.trending ORDER BY views_7d DESC") == [
        ("a", 1, 111, 11_111),
        ("b", 0, 0, 5),
    ]
