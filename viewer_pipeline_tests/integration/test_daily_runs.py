"""The asset `daily_views` and its schedules, as Dagster runs them."""

from __future__ import annotations

import base64
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.history.daily_rollup import rolled_up_days
from viewer_pipeline.history.days import Window
from viewer_pipeline.orchestration import partitions
from viewer_pipeline.orchestration.daily_views_asset import CHECKS, EARLIER, FINAL, daily_views, roll_up_days
from viewer_pipeline.orchestration.partitions import DAYS, format_window, partition_range_tags
from viewer_pipeline.orchestration.settings_resource import LOADED
from viewer_pipeline.orchestration.sweep_and_rollup_schedules import close_yesterday, refresh_today
from viewer_pipeline.orchestration.views_per_hour_chart import BAR, BASE, HEIGHT, LEFT, STEP
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.world import World

MARCH = date(2026, 3, 1)


@pytest.fixture
def history(world: World) -> History:
    """An empty ledger."""
    return History(world)


def settings_of(history: History) -> Settings:
    """Return settings that name the database."""
    return Settings(database_url=history.world.stores.ledger.url)


def materialize(
    history: History, instance: dg.DagsterInstance, window: Window, tags: dict[str, str] | None = None
) -> dg.ExecuteInProcessResult:
    """Run the job for a range of days in this process, as a backfill does."""
    return dg.materialize(
        [daily_views],
        instance=instance,
        resources={"settings": settings_of(history)},
        tags=partition_range_tags(window) | (tags or {}),
    )


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """Return the metadata of each partition's event."""
    return {
        str(event.partition): {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
    }


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Name and outcome of each check."""
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def test_a_range_is_one_run_with_an_event_for_each_day(history: History, dagster: DagsterWorld) -> None:
    """Each with its own numbers, table and chart."""
    history.flush(at(MARCH, "01:00:00"), {"a": 1, "b": 20})
    history.flush(at(MARCH + ONE, "23:30:00"), {"a": 300})
    result = materialize(history, dagster.instance, Window(MARCH, MARCH + ONE * 3), {"dagster/backfill": "abc"})
    days = metadata_of(result)
    assert {day: (metadata["daily_views"], metadata["daily_vods"]) for day, metadata in days.items()} == {
        "2026-03-01": (21, 2),
        "2026-03-02": (300, 1),
        "2026-03-03": (0, 0),
    }
    top = [record.data for record in days["2026-03-01"]["top_vods"].records]
    assert top == [{"vod_id": "b", "views": 20}, {"vod_id": "a", "views": 1}]
    chart = days["2026-03-02"]["views_per_hour"]
    assert "most from 23:00 to 00:00 UTC: 300 views" in chart
    drawn = base64.b64decode(chart.partition("base64,")[2].partition(")")[0]).decode()
    assert drawn.count("v-") == 1
    assert f"M{LEFT + BAR // 2 + 23 * STEP} {BASE}v-{HEIGHT}" in drawn
    assert checks(result) == dict.fromkeys(CHECKS, True)
    run = dagster.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["viewer/trigger"] == "backfill abc of 2026-03-01 to 2026-03-03"


def test_a_final_day_is_not_changed(history: History, dagster: DagsterWorld) -> None:
    """Its rows stay, and the metadata notes it."""
    history.flush(at(MARCH), {"a": 1})
    history.roll_up(MARCH, MARCH + ONE)
    history.keep_ledger_from(MARCH + ONE)
    history.world.execute("DELETE FROM viewer.flush_batch")
    metadata = metadata_of(materialize(history, dagster.instance, Window(MARCH, MARCH + ONE)))["2026-03-01"]
    assert (metadata["daily_views"], metadata["notes"]) == (1, FINAL)
    assert history.daily() == {(MARCH, "a"): 1}


def test_check_daily_equals_ledger_can_fail(
    history: History, dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the day and both sums."""
    from viewer_pipeline.orchestration import daily_views_asset  # noqa: PLC0415 - to reach in between

    history.flush(at(MARCH), {"a": 1})
    known = rolled_up_days

    def tamper(*arguments: Any) -> Any:
        history.world.execute("UPDATE viewer.daily_views SET views = 5")
        return known(*arguments)

    monkeypatch.setattr(daily_views_asset, "rolled_up_days", tamper)
    result = materialize(history, dagster.instance, Window(MARCH, MARCH + ONE))
    assert checks(result) == {"daily_equals_ledger": False, "closed_days_are_complete": True}
    (failed,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed.metadata["failing_rows"].value == ["2026-03-01: 5 views, the ledger has 1"]


def test_check_yesterday_is_complete_can_fail(history: History, dagster: DagsterWorld) -> None:
    """A closed day with a late flush is named, whatever day was materialized."""
    yesterday = datetime.now(UTC).date() - ONE
    history.flush(at(yesterday), {"a": 1})
    result = materialize(history, dagster.instance, Window(MARCH, MARCH + ONE))
    assert checks(result) == {"daily_equals_ledger": True, "closed_days_are_complete": False}
    (failed,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed.metadata["failing_rows"].value == [yesterday.isoformat()]


def tick(schedule: Any, history: History, instance: dg.DagsterInstance, moment: datetime) -> Any:
    """Evaluate a schedule as of a moment."""
    resources = {"settings": settings_of(history)}
    with dg.build_schedule_context(instance=instance, resources=resources, scheduled_execution_time=moment) as context:
        return schedule(context)


def test_refresh_today_requests_days_with_new_flushes(history: History, dagster: DagsterWorld) -> None:
    """And days with late flushes, one run for each range; else it skips with the reason."""
    today = MARCH + ONE * 10
    nothing = dg.SkipReason("no flush came since the last week was rolled up")
    assert tick(refresh_today, history, dagster.instance, at(today)) == nothing
    history.flush(at(today), {"a": 1})
    history.flush(at(today - ONE), {"a": 1})
    history.flush(at(today - ONE * 4), {"a": 1})
    history.flush(at(today - ONE * 8), {"a": 1})
    wanted = tick(refresh_today, history, dagster.instance, at(today))
    assert [request.tags["viewer/trigger"] for request in wanted] == [
        "schedule: 2026-03-07 has new flushes",
        "schedule: 2026-03-10 to 2026-03-11 has new flushes",
    ]
    windows = [Window(today - ONE * 4, today - ONE * 3), Window(today - ONE, today + ONE)]
    for window, request in zip(windows, wanted, strict=True):
        assert partition_range_tags(window).items() <= request.tags.items()
        materialize(history, dagster.instance, window)
    assert tick(refresh_today, history, dagster.instance, at(today)) == nothing


def test_a_request_of_a_schedule_can_be_run(history: History, dagster: DagsterWorld) -> None:
    """Its job takes the tags for the days that they name."""
    today = datetime.now(UTC).date()
    history.flush(at(today, "00:00:01"), {"a": 4})
    (request,) = tick(refresh_today, history, dagster.instance, at(today, "12:15:00"))
    result = defs.resolve_job_def(roll_up_days.name).execute_in_process(
        instance=dagster.instance, tags=request.tags, run_config=request.run_config
    )
    assert {day: metadata["daily_views"] for day, metadata in metadata_of(result).items()} == {today.isoformat(): 4}
    assert history.daily() == {(today, "a"): 4}


def test_yesterday_is_closed_once(history: History, dagster: DagsterWorld) -> None:
    """Also where it had no views; again only where a flush came late."""
    morning = at(MARCH + ONE, "00:10:00")
    (request,) = tick(close_yesterday, history, dagster.instance, morning)
    assert request.tags["viewer/trigger"] == "schedule: 2026-03-01 closes"
    materialize(history, dagster.instance, Window(MARCH, MARCH + ONE))
    closed = dg.SkipReason("2026-03-01 is closed: no flush of it came since it was rolled up")
    assert tick(close_yesterday, history, dagster.instance, morning) == closed
    history.flush(at(MARCH, "23:59:59.9"), {"a": 1})
    assert len(tick(close_yesterday, history, dagster.instance, morning)) == 1


def test_days_before_the_first_partition_are_rolled_up(
    history: History, dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older ledger was restored since the definitions loaded: the run of the first partition rolls its days up."""
    today = datetime.now(UTC).date()
    monkeypatch.setattr(partitions, "FIRST_DAY", today)
    for ago in (9, 3, 2):
        history.flush(at(today - ONE * ago), {"a": ago})
    requests = (
        tick(refresh_today, history, dagster.instance, at(today)),
        tick(close_yesterday, history, dagster.instance, at(today, "00:10:00")),
    )
    for (request,), reason in zip(requests, ("has new flushes", "closes"), strict=True):
        assert request.tags["viewer/trigger"] == f"schedule: {today - ONE * 3} to {today} {reason}"
        assert partition_range_tags(Window(today, today + ONE)).items() <= request.tags.items()
    result = materialize(history, dagster.instance, Window(today, today + ONE))
    assert history.daily() == {(today - ONE * 3, "a"): 3, (today - ONE * 2, "a"): 2}
    assert checks(result) == dict.fromkeys(CHECKS, True)
    metadata = metadata_of(result)
    assert {*metadata} == {today.isoformat()}
    notes = f"{today - ONE * 3} to {today - ONE * 2} {EARLIER}"
    assert metadata[today.isoformat()]["days_before_first_partition"] == notes
    nothing = dg.SkipReason("no flush came since the last week was rolled up")
    assert tick(refresh_today, history, dagster.instance, at(today)) == nothing
    skipped = dg.SkipReason(f"{today - ONE} is before the first day of daily_views")
    assert tick(close_yesterday, history, dagster.instance, at(today, "00:10:00")) == skipped


def test_days_before_history_start_are_not_rolled_up(
    history: History, dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither do the schedules request them."""
    today = datetime.now(UTC).date()
    monkeypatch.setattr(partitions, "FIRST_DAY", today)
    monkeypatch.setattr(partitions, "LOADED", LOADED.copy_unvalidated(history_start=today))
    history.flush(at(today - ONE), {"a": 1})
    history.flush(at(today), {"a": 2})
    (request,) = tick(refresh_today, history, dagster.instance, at(today))
    assert request.tags["viewer/trigger"] == f"schedule: {today} has new flushes"
    result = materialize(history, dagster.instance, Window(today, today + ONE))
    assert history.daily() == {(today, "a"): 2}
    assert checks(result) == dict.fromkeys(CHECKS, True)


@pytest.mark.parametrize("schedule", [close_yesterday, refresh_today])
def test_schedules_skip_while_a_run_is_active(history: History, dagster: DagsterWorld, schedule: Any) -> None:
    """And name it."""
    history.flush(at(MARCH), {"a": 1})
    job = defs.resolve_job_def(roll_up_days.name)
    run = dagster.instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED)
    skipped = tick(schedule, history, dagster.instance, at(MARCH + ONE, "00:10:00"))
    assert skipped == dg.SkipReason(f"run of roll_up_days {run.run_id[:8]} is started")


def test_days_are_those_from_the_setting_to_today() -> None:
    """In UTC, today included."""
    keys = DAYS.get_partition_keys(current_time=datetime(2026, 3, 2, 0, 0, 1, tzinfo=UTC))
    assert (keys[0], keys[-1]) == ("2026-01-01", "2026-03-02")
    assert format_window(Window(MARCH, MARCH + ONE)) == "2026-03-01"
