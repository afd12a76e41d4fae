"""Daily views: the ledger added up by day and VOD, by hand, by schedule, over a range."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from viewer_pipeline.history.daily import Day, Window, rolled_up_days, stale_days, unequal_days
from viewer_pipeline.stores.queries import fetch_one
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.world import World

MARCH = date(2026, 3, 1)


@pytest.fixture
def history(world: World) -> History:
    """An empty ledger."""
    return History(world)


def test_views_are_added_up_by_day_and_vod(history: History) -> None:
    """Over flushes and batches; repairs are left out; what is noted is what is there."""
    history.flush(at(MARCH), {"a": 1, "b": 2, "c": 3})
    last = history.flush(at(MARCH, "23:59:59.999999"), {"a": 10})
    history.flush(at(MARCH), {"a": 1000}, mode="reconcile")
    history.flush(at(MARCH + ONE, "00:00:00"), {"a": 100})
    assert history.roll_up(MARCH, MARCH + ONE).added_up == [MARCH]
    assert history.daily() == {(MARCH, "a"): 11, (MARCH, "b"): 2, (MARCH, "c"): 3}
    window = Window(MARCH, MARCH + ONE)
    assert history.ask(rolled_up_days, window) == [Day(MARCH, 3, 16, last, True, 2, 16, 0)]
    assert history.ask(unequal_days, window) == []


def test_a_range_twice_and_single_days_give_the_same_rows(history: History) -> None:
    """Whichever way days are added up, and however often."""
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
    assert [day.views for day in history.ask(rolled_up_days, Window(MARCH, MARCH + ONE * 6))][-1] == 0


def test_a_flush_of_yesterday_that_commits_after_midnight(history: History) -> None:
    """Taken at 23:59:59.9: it makes its day stale again, not the next one, and rolling up again mends it."""
    history.flush(at(MARCH), {"a": 1})
    history.roll_up(MARCH, MARCH + ONE)
    history.flush(at(MARCH + ONE, "00:00:01"), {"a": 5})
    history.roll_up(MARCH + ONE, MARCH + ONE * 2)
    assert history.ask(stale_days, MARCH, MARCH + ONE) == []
    history.flush(at(MARCH, "23:59:59.9"), {"a": 2})
    assert history.ask(stale_days, MARCH, MARCH + ONE) == [Window(MARCH, MARCH + ONE)]
    (day,) = history.ask(rolled_up_days, Window(MARCH, MARCH + ONE))
    assert (day.views, day.behind) == (1, 1)
    history.roll_up(MARCH, MARCH + ONE)
    assert history.daily() == {(MARCH, "a"): 3, (MARCH + ONE, "a"): 5}
    assert history.ask(stale_days, MARCH, MARCH + ONE) == []


def test_stale_days_are_told_as_windows(history: History) -> None:
    """Neighbours together; repairs make no day stale, nor do days outside."""
    for number in (0, 1, 3, 9):
        history.flush(at(MARCH + ONE * number), {"a": 1})
    history.flush(at(MARCH + ONE * 5), {"a": 1}, mode="reconcile")
    expected = [Window(MARCH, MARCH + ONE * 2), Window(MARCH + ONE * 3, MARCH + ONE * 4)]
    assert history.ask(stale_days, MARCH, MARCH + ONE * 7) == expected


def test_days_whose_ledger_was_dropped_stay(history: History) -> None:
    """They are final; the rest of the range is added up."""
    history.flush(at(MARCH), {"a": 1})
    history.flush(at(MARCH + ONE), {"a": 2})
    history.roll_up(MARCH, MARCH + ONE * 2)
    history.world.execute("UPDATE viewer.ledger_kept SET from_day = %s", MARCH + ONE)
    history.world.execute("DELETE FROM viewer.flush_batch WHERE seq = 1")
    history.world.execute("UPDATE viewer.daily_views SET views = 0 WHERE day = %s", MARCH + ONE)
    done = history.roll_up(MARCH, MARCH + ONE * 2)
    assert (done.final, done.added_up) == ([MARCH], [MARCH + ONE])
    assert history.daily() == {(MARCH, "a"): 1, (MARCH + ONE, "a"): 2}
    assert history.roll_up(MARCH, MARCH + ONE).added_up == []
    assert history.ask(stale_days, MARCH, MARCH + ONE) == []


def test_a_day_that_differs_from_its_ledger_is_told(history: History) -> None:
    """With both sums."""
    history.flush(at(MARCH), {"a": 1})
    history.roll_up(MARCH, MARCH + ONE)
    history.world.execute("UPDATE viewer.daily_views SET views = 7")
    assert history.ask(unequal_days, Window(MARCH, MARCH + ONE)) == [(MARCH, 7, 1)]


def test_a_flush_that_commits_while_a_day_is_added_up_is_not_lost(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What commits between the statements is in none of them, and the day is stale afterwards."""
    from viewer_pipeline.history import daily  # noqa: PLC0415 - to look inside

    history.flush(at(MARCH), {"a": 1})
    alone = fetch_one

    def and_then_flush(*arguments: Any, **parameters: Any) -> Any:
        answer = alone(*arguments, **parameters)
        history.flush(at(MARCH), {"a": 10})
        return answer

    monkeypatch.setattr(daily, "fetch_one", and_then_flush)
    history.roll_up(MARCH, MARCH + ONE)
    monkeypatch.undo()
    assert history.daily() == {(MARCH, "a"): 1}
    assert history.ask(unequal_days, Window(MARCH, MARCH + ONE)) == []
    assert history.ask(stale_days, MARCH, MARCH) == [Window(MARCH, MARCH + ONE)]


def test_trending_adds_the_last_days_up(history: History) -> None:
    """Over 1, 7 and 30 days, today included."""
    today = datetime.now(UTC).date()
    for ago, views in ((0, 1), (1, 10), (6, 100), (7, 1000), (29, 10_000), (30, 100_000)):
        history.flush(at(today - ONE * ago), {"a": views})
    history.flush(at(today - ONE * 8), {"b": 5})
    history.roll_up(today - ONE * 40, today + ONE)
    assert history.world.rows("SELECT * FROM viewer.trending ORDER BY views_7d DESC") == [
        ("a", 1, 111, 11_111),
        ("b", 0, 0, 5),
    ]
