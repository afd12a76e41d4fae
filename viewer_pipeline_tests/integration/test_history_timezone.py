"""Daily views in HISTORY_TIMEZONE: bounds of days, a change of the zone, and what retention has made final."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from viewer_pipeline.errors import HistoryTimezoneChanged
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.history.daily_rollup import (
    days_unequal_to_ledger,
    find_windows_to_roll_up,
    rolled_up_days,
    views_per_hour,
)
from viewer_pipeline.history.days import ONE_DAY, Window, day_of, start_of_day, today
from viewer_pipeline.history.first_day import first_day_of_history
from viewer_pipeline.history.ledger_days import read_ledger_days
from viewer_pipeline.history.pruning import plan_ledger_pruning, prune_ledger
from viewer_pipeline.history.timezone_change import find_timezone_change
from viewer_pipeline.monitoring.health_rules import evaluate_history_timezone
from viewer_pipeline.monitoring.status_page.top_vods import TopVodsReader
from viewer_pipeline.orchestration.sweep_and_rollup_schedules import close_yesterday, refresh_today
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, reconcile
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.ledger_world import History
from viewer_pipeline_tests.support.world import World

UTC_ZONE, BERLIN, NEW_YORK = ZoneInfo("UTC"), ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
FOREVER = [Marker(10**9, 1, 1)]
MOMENT = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
CHANGES = [
    ("Europe/Berlin", "2026-03-29", 23),
    ("Europe/Berlin", "2026-10-25", 25),
    ("America/New_York", "2026-03-08", 23),
    ("America/New_York", "2026-11-01", 25),
    ("Asia/Kolkata", "2026-03-29", 24),
    ("America/Santiago", "2026-09-06", 23),  # its midnight does not exist
    ("Asia/Beirut", "2026-03-29", 23),  # likewise
    ("America/Havana", "2026-11-01", 25),  # its midnight comes twice
]


def hourly(history: History, start: datetime, hours: int) -> int:
    """Commit a flush each hour, of as many views as have been flushes, and return their sum."""
    for number in range(hours):
        history.flush(start + HOUR * number, {"a": number + 1})
    return sum(range(1, hours + 1))


def by_day(history: History) -> Counter[date]:
    """Return the views of each day in daily_views."""
    days = Counter[date]()
    for (day, _), views in history.daily().items():
        days[day] += views
    return days


def expected(history: History, zone: ZoneInfo) -> Counter[date]:
    """Return the views of each day by the calendar of the zone, from the ledger."""
    days = Counter[date]()
    for taken_at, views in history.world.rows("SELECT taken_at, views FROM viewer.flush WHERE mode = 'sweep'"):
        days[day_of(taken_at, zone)] += int(views)
    return days


def roll_up(history: History, zone: ZoneInfo, start: date, end: date) -> None:
    """Roll up days of a zone."""
    History(history.world, zone).roll_up(start, end)


@pytest.mark.parametrize(("name", "text", "hours"), CHANGES)
def test_flushes_at_the_bounds_are_of_the_right_day(world: World, name: str, text: str, hours: int) -> None:
    """The first and the last moment of the day, and their neighbours; and all views are in some day."""
    zone, day = ZoneInfo(name), date.fromisoformat(text)
    history = History(world, zone)
    start, end = start_of_day(day, zone), start_of_day(day + ONE_DAY, zone)
    history.flush(start - MOMENT, {"a": 1})
    history.flush(start, {"a": 10})
    history.flush(end - MOMENT, {"a": 100})
    history.flush(end, {"a": 1000})
    sent = hourly(history, start, hours)
    history.flush(start, {"a": 5}, mode="reconcile")
    history.roll_up(day - ONE_DAY, day + ONE_DAY * 2)
    assert history.daily() == {
        (day - ONE_DAY, "a"): 1,
        (day, "a"): 110 + sent,
        (day + ONE_DAY, "a"): 1000,
    }
    rolled_up = history.call(rolled_up_days, Window(day, day + ONE_DAY))[0]
    assert (rolled_up.starts_at, rolled_up.ends_at, rolled_up.flushes) == (start, end, hours + 2)
    assert history.call(days_unequal_to_ledger, Window(day - ONE_DAY, day + ONE_DAY * 2)) == []
    assert history.call(find_windows_to_roll_up, day - ONE_DAY, day + ONE_DAY, zone) == []
    bars = history.call(views_per_hour, rolled_up, zone)
    assert len(bars) == hours
    assert [views for _, views in bars] == [11, *range(2, hours), hours + 100]
    assert [moment.astimezone(UTC) for moment, _ in bars] == [start + HOUR * number for number in range(hours)]
    assert {moment.tzinfo for moment, _ in bars} == {zone}


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, ZoneInfo("Asia/Kolkata"), ZoneInfo("Pacific/Kiritimati")], ids=str)
def test_a_change_of_the_zone_is_one_backfill(world: World, zone: ZoneInfo) -> None:
    """Until it is done no day is rolled up or pruned; then every day is exact. Back again likewise."""
    history = History(world)
    first = date(2026, 10, 20)
    hourly(history, datetime(2026, 10, 20, 0, 30, tzinfo=UTC), 24 * 9)
    history.roll_up(first, first + ONE_DAY * 9)
    rows = history.daily()
    change = history.call(change_of, zone)
    assert (change.days, change.zones) == ([first + ONE_DAY * number for number in range(9)], ["UTC"])
    needed = change.to_backfill
    assert needed.days() == sorted(expected(history, zone))
    check = evaluate_history_timezone(change, zone.key)
    assert check.status == "degraded"
    message = f"9 days from 2026-10-20 to 2026-10-28 in UTC, and HISTORY_TIMEZONE is {zone.key}"
    assert check.message == f"days were rolled up in another time zone: {message}"
    remedy = f"backfill {needed.start}`, or set HISTORY_TIMEZONE=UTC again"
    assert check.remedy.endswith(remedy)
    calls: list[tuple[Any, ...]] = [
        (find_windows_to_roll_up, first, first, zone),
        (plan_ledger_pruning, first + ONE_DAY, FOREVER, zone),
        (prune_ledger, first + ONE_DAY, FOREVER, 60, zone),
    ]
    for call in calls:
        with pytest.raises(HistoryTimezoneChanged, match=message):
            history.call(*call)
    for window in (Window(needed.start + ONE_DAY, needed.end), Window(needed.start, needed.end - ONE_DAY)):
        with pytest.raises(HistoryTimezoneChanged):
            roll_up(history, zone, *window)
    assert history.daily() == rows
    roll_up(history, zone, *needed)
    assert by_day(history) == expected(history, zone)
    assert history.call(change_of, zone) is None
    assert evaluate_history_timezone(None, zone.key).message == f"days are those of {zone.key}"
    assert world.rows("SELECT DISTINCT time_zone FROM viewer.daily_rollup") == [(zone.key,)]
    assert history.call(find_windows_to_roll_up, needed.start, needed.end, zone) == []
    roll_up(history, UTC_ZONE, *history.call(change_of, UTC_ZONE).to_backfill)
    assert history.daily() == rows


def change_of(connection: Any, zone: ZoneInfo) -> Any:
    """Return how days that are rolled up differ from those of the zone."""
    return find_timezone_change(connection, read_ledger_days(connection, zone))


def test_a_zone_whose_rules_have_changed_is_a_change(world: World) -> None:
    """Days that were rolled up with other bounds of the same zone, as before an update of its rules."""
    history, day = History(world, BERLIN), date(2026, 10, 25)
    history.flush(start_of_day(day, BERLIN), {"a": 1})
    history.roll_up(day, day + ONE_DAY)
    world.execute("UPDATE viewer.daily_rollup SET ends_at = ends_at - interval '1 hour'")
    change = history.call(change_of, BERLIN)
    assert change.message() == (
        "1 day from 2026-10-25 to 2026-10-25: the rules of HISTORY_TIMEZONE=Europe/Berlin have changed since"
    )
    assert change.remedy().endswith("backfill 2026-10-25`")
    history.roll_up(day, day + ONE_DAY)
    assert history.call(change_of, BERLIN) is None


def test_another_name_of_the_zone_is_no_change(world: World) -> None:
    """Days with the same bounds need no backfill; nor do days of another zone without views, which are deleted."""
    history = History(world, ZoneInfo("Asia/Calcutta"))
    day = date(2026, 3, 1)
    history.flush(start_of_day(day, history.zone), {"a": 1})
    history.roll_up(day, day + ONE_DAY)
    assert history.call(change_of, ZoneInfo("Asia/Kolkata")) is None
    world.execute("TRUNCATE viewer.flush, viewer.flush_batch, viewer.daily_views")
    assert evaluate_history_timezone(history.call(change_of, BERLIN), "Europe/Berlin").passed
    assert history.call(find_windows_to_roll_up, day, day, BERLIN) == []
    roll_up(history, BERLIN, day + ONE_DAY, day + ONE_DAY * 2)
    assert world.rows("SELECT day, time_zone FROM viewer.daily_rollup") == [(day + ONE_DAY, "Europe/Berlin")]


@pytest.mark.parametrize(
    ("zone", "hours"),
    [(BERLIN, 23), (NEW_YORK, 28), (ZoneInfo("Asia/Kolkata"), 18.5), (ZoneInfo("Pacific/Kiritimati"), 10)],
    ids=str,
)
def test_days_whose_ledger_was_pruned_stay_in_the_old_zone(
    world: World, zone: ZoneInfo, hours: float, tmp_path: Path
) -> None:
    """The first day after them begins where they end: no view is in two days or in none. Then pruning continues."""
    history, first = History(world), date(2026, 3, 10)
    sent = hourly(history, datetime(2026, 3, 10, 0, 30, tzinfo=UTC), 24 * 5)
    history.roll_up(first, first + ONE_DAY * 5)
    final, before = first + ONE_DAY * 2, dict(history.daily())
    assert history.call(prune_ledger, final, FOREVER, 60, UTC_ZONE).flushes == 48
    change = history.call(change_of, zone)
    assert change.to_backfill.start == final
    roll_up(history, zone, *change.to_backfill)
    days = by_day(history)
    assert days.total() == sent
    assert [days[first], days[first + ONE_DAY]] == [before[first, "a"], before[first + ONE_DAY, "a"]]
    (seam,) = history.call(rolled_up_days, Window(final, final + ONE_DAY))
    assert (seam.ends_at - seam.starts_at) / HOUR == hours
    assert days == expected_with_seam(history, zone, final) + Counter({day: days[day] for day in days if day < final})
    assert differences(world, tmp_path) == {}
    end = final + ONE_DAY * 2
    pruned = history.call(prune_ledger, end, FOREVER, 60, zone)
    assert pruned.flushes == (start_of_day(end, zone) - start_of_day(final, UTC_ZONE)) // HOUR
    assert world.rows("SELECT from_day, from_at FROM viewer.ledger_kept") == [(end, start_of_day(end, zone))]
    assert by_day(history) == days
    assert differences(world, tmp_path) == {}
    assert history.call(prune_ledger, end, FOREVER, 60, zone).flushes == 0
    late = history.flush(start_of_day(first, UTC_ZONE) + HOUR, {"a": 7})
    assert differences(world, tmp_path) == {}
    assert (late, sum(history.daily().values())) == (24 * 5 + 1, sent)


def expected_with_seam(history: History, zone: ZoneInfo, from_day: date) -> Counter[date]:
    """Return the views of each day by the calendar of the zone; those before `from_day` are of that day."""
    days = Counter[date]()
    for day, views in expected(history, zone).items():
        days[max(day, from_day)] += views
    return days


def differences(world: World, reports: Path) -> dict[str, int]:
    """Return how many differences a reconciliation finds, by kind; not of the marker, which no run has made here."""
    result = reconcile(world.stores, ReconcileRequest(run_id="test", reports=reports))
    return {kind: count for kind, count in result.differences.items() if count and kind != "marker"}


def test_retention_keeps_what_a_day_of_the_zone_needs(world: World) -> None:
    """It prunes up to the first moment of a day there, not in UTC."""
    history = History(world, NEW_YORK)
    day = date(2026, 3, 8)
    limit = start_of_day(day + ONE_DAY, NEW_YORK)
    for taken_at in (limit - HOUR, limit - MOMENT, limit, limit + HOUR):
        history.flush(taken_at, {"a": 1})
    assert day_of(limit - HOUR, UTC_ZONE) == day + ONE_DAY
    history.roll_up(day, day + ONE_DAY * 2)
    assert history.call(prune_ledger, day + ONE_DAY, FOREVER, 60, NEW_YORK).flushes == 2
    assert world.seqs() == [3, 4]
    history.roll_up(day, day + ONE_DAY * 2)
    assert by_day(history) == Counter({day: 2, day + ONE_DAY: 2})


def test_first_day_and_trending_are_those_of_the_zone(world: World, database_url: str) -> None:
    """A flush of the evening in New York is of the day before that of UTC; `trending` includes today there."""
    history = History(world, NEW_YORK)
    history.flush(datetime(2026, 3, 10, 2, tzinfo=UTC), {"a": 1})
    settings = Settings(database_url=database_url)
    assert first_day_of_history(settings) == date(2026, 3, 10)
    assert first_day_of_history(settings.copy_unvalidated(history_timezone=NEW_YORK)) == date(2026, 3, 9)
    for zone in (ZoneInfo("Pacific/Kiritimati"), ZoneInfo("Etc/GMT+12")):
        world.execute("TRUNCATE viewer.flush, viewer.flush_batch, viewer.daily_views, viewer.daily_rollup")
        now = datetime.now(UTC)
        history.flush(now, {"a": 5})
        history.flush(now - ONE_DAY, {"a": 30})
        day = day_of(now, zone)
        roll_up(history, zone, day - ONE_DAY, day + ONE_DAY)
        assert world.rows("SELECT views_1d, views_7d FROM viewer.trending") == [(5, 35)]
        world.execute("DELETE FROM viewer.daily_rollup WHERE day = %s", day)
        world.execute("DELETE FROM viewer.daily_views WHERE day = %s", day)
        assert world.rows("SELECT views_1d, views_7d FROM viewer.trending") == [(0, 30)], "today is not rolled up yet"


def test_top_vods_of_today_in_the_zone(world: World) -> None:
    """Only flushes of today there; a rollup of that date in another zone is not mixed in."""
    zone = ZoneInfo("Pacific/Kiritimati")
    day, history = today(zone), History(world, zone)
    start = start_of_day(day, zone)
    history.flush(start - MOMENT, {"before": 9})
    history.flush(start, {"a": 2})
    reader = TopVodsReader(zone)
    assert history.call(reader.read)[::2] == (day, [("a", 2)])
    history.roll_up(day, day + ONE_DAY)
    assert history.call(reader.read)[::2] == (day, [("a", 2)])
    world.execute("UPDATE viewer.daily_rollup SET starts_at = starts_at - interval '1 hour'")
    world.execute("UPDATE viewer.daily_views SET views = 100")
    assert history.call(reader.read)[::2] == (day, [("a", 2)])


def tick(schedule: Any, settings: Settings, instance: dg.DagsterInstance, moment: datetime) -> Any:
    """Evaluate a schedule as of a moment."""
    resources = {"settings": settings}
    with dg.build_schedule_context(instance=instance, resources=resources, scheduled_execution_time=moment) as context:
        return schedule(context)


@pytest.mark.parametrize(("name", "text", "hours"), CHANGES)
def test_schedules_close_the_day_of_the_zone(
    world: World, dagster: DagsterWorld, name: str, text: str, hours: int
) -> None:
    """Ten minutes after its end, whatever its hours; today is refreshed from its first moment on."""
    zone, day = ZoneInfo(name), date.fromisoformat(text)
    settings = Settings(database_url=world.stores.ledger.url, history_timezone=zone)
    start = start_of_day(day, zone)
    end = start + HOUR * hours
    History(world).flush(end - MOMENT, {"a": 1})
    (request,) = tick(close_yesterday, settings, dagster.instance, end + timedelta(minutes=10))
    assert request.tags["viewer/trigger"] == f"schedule: {day} closes"
    assert request.tags["dagster/asset_partition_range_start"] == text
    (request,) = tick(refresh_today, settings, dagster.instance, end - timedelta(minutes=15))
    assert request.tags["viewer/trigger"] == f"schedule: {day} has new flushes"
    roll_up(History(world), zone, day, day + ONE_DAY)
    History(world).flush(end, {"a": 1})
    (request,) = tick(refresh_today, settings, dagster.instance, end)
    assert request.tags["viewer/trigger"] == f"schedule: {day + ONE_DAY} has new flushes"


def test_schedules_skip_until_the_backfill(world: World, dagster: DagsterWorld, database_url: str) -> None:
    """With the zones, and the command to run."""
    history, day = History(world), date(2026, 3, 10)
    history.flush(datetime(2026, 3, 10, 12, tzinfo=UTC), {"a": 1})
    history.roll_up(day, day + ONE_DAY)
    settings = Settings(database_url=database_url, history_timezone=BERLIN)
    for schedule in (close_yesterday, refresh_today):
        skipped = tick(schedule, settings, dagster.instance, datetime(2026, 3, 11, 0, 10, tzinfo=UTC))
        assert isinstance(skipped, dg.SkipReason)
        assert "1 day from 2026-03-10 to 2026-03-10 in UTC, and HISTORY_TIMEZONE is Europe/Berlin" in str(
            skipped.skip_message
        )
        assert "backfill 2026-03-10`, or set HISTORY_TIMEZONE=UTC again" in str(skipped.skip_message)
