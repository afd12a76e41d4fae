"""Dagster's real UI in a real browser, on the whole stack: the pages and buttons of an operator.

Screenshots go to VIEWER_TEST_SCREENSHOTS (`make browser`: docs/images); without it they are discarded.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from math import cos, pi
from pathlib import Path

from playwright.sync_api import Page, expect

from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.verify import CHECKS as FLUSH_CHECKS
from viewer_pipeline.orchestration.flush_metadata import TIMED_STEPS
from viewer_pipeline.reconcile.reconciliation import CHECKS as RECONCILE_CHECKS
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline_tests.browser.operator import STEPS, Operator
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.stack import up, variables
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

DAYS = 28  # with views, before today
VODS = [f"vod_{number}" for number in range(1, 8)]
FLUSHES = 6  # made during the test: points of the plots
PLOTS = (
    "added_views",
    "added_views_per_minute",
    "counters",
    "lag_seconds",
    "pending_vods",
    *(f"seconds_{step}" for step in sorted(TIMED_STEPS)),
    "total_views",
    "total_vods",
)
Rows = dict[tuple[date, str], int]


def plant(world: World, days: list[date]) -> Rows:
    """Write flushes of past days; the last day has one each hour. Return the daily views to expect."""
    history, rows = History(world), Rows()
    for day in days:
        for hour in range(24) if day == days[-1] else [12]:
            busy = 3 - 2 * cos(pi * (hour - 5) / 12)  # most at 17 h, least at 5 h
            views = {vod_id: round(10 * number * busy) + day.day for number, vod_id in enumerate(VODS, 1)}
            history.send_and_flush(at(day, f"{hour:02d}:30:00"), views)
            for vod_id, count in views.items():
                rows[day, vod_id] = rows.get((day, vod_id), 0) + count
    return rows


def send(world: World, flushes: range) -> None:
    """Send views by message to each VOD, several times; each time wait until they are persisted."""
    for flush in flushes:
        for number, vod_id in enumerate(VODS, 1):
            count = number * (flush % 3 + 1)
            assert world.client.publish("view_count_updates", json.dumps({"vodId": vod_id, "count": count})) == 1
            world.sent[vod_id] += count
        wait_until(lambda: world.totals() == world.sent, 120, "the views that were announced are persisted")


def test_the_pages_of_an_operator(page: Page, screenshots: Path, stores: Stores, tmp_path: Path) -> None:
    """Backfill and reconciliation by clicks, a run with its four steps, plots, lineage, and descriptions."""
    world, yesterday = World(stores), datetime.now(UTC).date() - ONE
    days = [yesterday - ONE * ago for ago in range(DAYS)][::-1]
    rows = plant(world, days)
    servers = {"DATABASE_URL": stores.ledger.url, "REDIS_URL": stores.redis.url}
    with up(variables(tmp_path, **servers, HEALTH_CHECK_PORT=str(find_free_port()))) as stack:
        operator = Operator(page, stack.wait_for_ui(), screenshots)
        send(world, range(1))  # else the UI warns that `view_counts` has never been materialized
        operator.open()
        chosen = operator.backfill_all_days()
        backfill = operator.leave()
        send(world, range(1, FLUSHES))  # while the daemon polls for backfills every half minute
        wait_until(lambda: len(History(world).daily()) >= len(rows), 200, "the rows of the backfill")
        page.goto(backfill)
        assert chosen in (DAYS + 1, DAYS + 2)  # since the first flush, today as well; at midnight a day is added
        check_backfill(operator, chosen)
        assert {key: views for key, views in History(world).daily().items() if key[0] <= yesterday} == rows
        check_hourly_chart_of_a_day(operator, yesterday, rows)
        check_steps_of_a_run(operator)
        check_plots(operator)
        check_reconciliation(operator)
        check_asset_graph(operator)
        check_automation(operator)
        stack.stop()


def check_backfill(operator: Operator, days: int) -> None:
    """All of its days succeeded."""
    page = operator.page
    expect(operator.smallest("^Status ?Succeeded$")).to_be_visible(timeout=200_000)
    expect(page.get_by_text("100% completed")).to_be_visible()
    expect(page.get_by_text(str(days), exact=True)).to_have_count(2)  # targeted, and succeeded
    operator.screenshot("backfill")


def check_hourly_chart_of_a_day(operator: Operator, day: date, rows: Rows) -> None:
    """The views of the day as a number and, without a click, as bars, which the UI does not block."""
    page = operator.page
    operator.open_asset("daily_views")
    operator.tab("Partitions")
    page.get_by_text(f"{day}", exact=True).first.click()
    views = sum(count for (when, _), count in rows.items() if when == day)
    expect(page.get_by_role("row", name=re.compile(rf"^daily_views {views}\b"))).to_be_visible()
    chart = page.get_by_role("row", name=re.compile("^views_per_hour"))
    expect(chart).to_contain_text(f"{day}: most from 17 to 18 h UTC")
    image = chart.get_by_role("img", name="views per hour")
    assert image.evaluate("async image => (await image.decode(), image.width)") > 0
    expect(image).to_be_in_viewport(ratio=1)
    operator.screenshot("daily-views")


def check_steps_of_a_run(operator: Operator) -> None:
    """Its trigger, its steps by name, all of them green, its checks, and its log lines."""
    page = operator.page
    operator.open_run(f"sensor: {len(VODS)} VODs announced")
    operator.show_steps()
    for step in STEPS:
        expect(page.get_by_text(f"view_counts.{step}", exact=True).first).to_be_visible()
    expect(page.get_by_text(f"Succeeded ({len(STEPS)})")).to_be_visible()
    expect(page.get_by_text("Errored (0)")).to_be_visible()
    expect(page.get_by_text(f"{len(FLUSH_CHECKS)} checks")).to_be_visible()
    operator.screenshot("run")
    operator.show_output("stderr")
    expect(page.get_by_text(re.compile("flush_committed seq="))).to_be_visible()


def check_plots(operator: Operator) -> None:
    """Views, counters and lag first, then the seconds of each step; each over more than half of its plot."""
    operator.open_asset("view_counts")
    operator.show_plots()
    for name in PLOTS:
        operator.wait_for_line(name)
    assert operator.plot_names() == list(PLOTS)
    operator.chart(PLOTS[0]).scroll_into_view_if_needed()
    operator.screenshot("plots")


def check_reconciliation(operator: Operator) -> None:
    """Materialized by a click: each of its five checks passed, with its message."""
    page = operator.page
    operator.open_asset("reconciliation")
    operator.press_materialize()
    expect(page.get_by_role("region", name="Notifications").get_by_text("Launched run")).to_be_visible()
    operator.tab("Checks")
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(len(RECONCILE_CHECKS), timeout=120_000)
    for check in sorted(RECONCILE_CHECKS):
        page.get_by_text(check, exact=True).first.click()
        expect(operator.smallest("Evaluation result")).to_contain_text("Passed")
        message = "not compared: TARGET_TABLE is not set" if check == "target_equals_totals" else "0 differences"
        expect(page.get_by_text(message, exact=True)).to_be_visible()
    operator.screenshot("reconciliation")


def check_asset_graph(operator: Operator) -> None:
    """From Redis to the totals to the days; their checks passed."""
    operator.open_graph()
    line = [operator.node(name) for name in ("redis_counters", "view_counts", "daily_views")]
    for asset, passed in zip([*line[1:], operator.node("reconciliation")], (4, 2, 5), strict=True):
        expect(asset).to_contain_text(f"{passed} / {passed} Passed")
    expect(line[2]).to_contain_text(re.compile(r"(100|9\d)% filled"))  # at midnight a day is added
    lefts = [float(asset.evaluate("node => node.getBoundingClientRect().x")) for asset in line]
    assert lefts[0] < lefts[1] < lefts[2]
    operator.screenshot("asset-graph")
    operator.open_asset("view_counts")
    lineage = operator.smallest("^Upstream assets.*Downstream assets")
    expect(lineage).to_have_text(re.compile("Upstream assets.*redis_counters.*Downstream assets.*daily_views"))
    expect(operator.page.get_by_text("Passing").first).to_be_visible()  # its freshness


def check_automation(operator: Operator) -> None:
    """The description of each is on its page."""
    for kind, name, description in (
        ("Sensor", "view_count_updates_sensor", "Flush what was announced since the last flush"),
        ("Schedule", "sweep_schedule", "Flush all counters, announced or not"),
    ):
        operator.open_automation(kind, name)
        expect(operator.page.get_by_text(description)).to_be_visible()
