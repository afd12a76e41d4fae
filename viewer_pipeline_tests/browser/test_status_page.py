"""The worker's status page in a real browser: light, dark, on a phone, with hostile ids, and with servers down.

One screenshot goes to VIEWER_TEST_SCREENSHOTS (`make browser`: docs/images); without it all are discarded.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from viewer_pipeline.monitoring import health_change_log
from viewer_pipeline.monitoring.dagster_tables import SENSOR, SWEEP
from viewer_pipeline.monitoring.status_page.buckets import last_buckets
from viewer_pipeline.monitoring.status_page.oldest_pending import OldestPendingHistory
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.http_world import HttpWorld
from viewer_pipeline_tests.support.ledger_world import History
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.world import World

PHONE = {"width": 360, "height": 740}
HOSTILE = ["<script>document.title = 'hacked'</script>", "<img src=x onerror=\"document.title='hacked'\">", "x" * 255]
# Contrast of the text of each element that has text of its own with the background that is behind it (WCAG 2).
LOWEST_CONTRAST = """() => {
    const luminance = colour => {
        const [red, green, blue] = colour.match(/[\\d.]+/g).map(Number).map(part => part / 255)
            .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue
    }
    const behind = element => {
        const colour = getComputedStyle(element).backgroundColor
        return colour === 'rgba(0, 0, 0, 0)' && element.parentElement ? behind(element.parentElement) : colour
    }
    const own = element => [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())
    return Math.min(...[...document.querySelectorAll('main *')].filter(own).map(element => {
        const pair = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((a, b) => b - a)
        return (pair[0] + 0.05) / (pair[1] + 0.05)
    }))
}"""


@pytest.fixture
def busy(dagster: DagsterWorld, http: HttpWorld, world: World, monkeypatch: pytest.MonkeyPatch) -> HttpWorld:
    """A worker with three hours of flushes, pending views, and Dagster running."""
    plant_flushes(world)
    world.send("match-final", 41, announce=True)
    world.client.zadd(world.stores.redis.names.changed, {"match-final": time.time() * 1000 - 14_000})
    dagster.beat_all()
    dagster.register()
    dagster.tick(SENSOR, 4, skip="no VOD was announced since the last flush")
    dagster.tick(SWEEP, 20, skip="no key vod:views:* holds views: nothing to flush")
    history = OldestPendingHistory()
    history.seconds_by_bucket = {bucket: 20 + 12 * math.sin(bucket) for bucket in last_buckets(time.time())}
    monkeypatch.setattr(health_change_log, "OldestPendingHistory", lambda: history)
    http.start(dagster_ui_url="http://localhost:3000")
    return http


def plant_flushes(world: World) -> None:
    """Commit a flush for each two minutes, most views in the middle, and one of the last seconds."""
    history, now = History(world), datetime.now(UTC)
    vods = ("match-final", "match-opening", "interview-42", "highlights-7", "studio-live")
    for ago in (*range(178, 1, -2), 0.2):
        busy = 60 + 40 * math.cos((ago - 80) / 30)
        views = {vod_id: round(busy * (9 - number) + ago % 7) for number, vod_id in enumerate(vods)}
        history.flush(now - timedelta(minutes=ago), views)
    world.execute("UPDATE viewer.flush SET committed_at = taken_at + make_interval(secs => 0.1 + 0.05 * (seq %% 7))")
    world.execute("UPDATE viewer.flush SET run_id = %s", str(uuid4()))
    ((seq, batches),) = world.rows("SELECT seq, batches FROM viewer.flush ORDER BY seq DESC LIMIT 1")
    world.client.hset("viewer:settled", mapping={"flush": seq, "batch": batches, "batches": batches})


def open_page(page: Page, http: HttpWorld) -> list[str]:
    """Open the status page; return the messages of its console, which grow."""
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(f"http://{LOOPBACK}:{http.port}/")
    return messages


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(page: Page, busy: HttpWorld, screenshots: Path, scheme: str) -> None:
    """Charts, tables and links; nothing violates the policy, and every text has enough contrast."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 1100, "height": 940})
    messages = open_page(page, busy)
    expect(page.get_by_role("heading", level=1)).to_have_text("Viewer Pipeline")
    expect(page.locator("header .status")).to_have_text("healthy")
    expect(page.get_by_role("img", name="Views per minute: highest")).to_be_visible()
    expect(page.get_by_role("img", name="Lag: highest")).to_be_visible()
    expect(page.get_by_role("img", name="Seconds to commit of the last flushes")).to_be_visible()
    expect(page.locator("section", has_text="Last flushes").get_by_role("link").first).to_be_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('rect')).fill") != "rgb(0, 0, 0)"
    assert float(page.evaluate(LOWEST_CONTRAST)) >= 4.5
    assert messages == []
    page.screenshot(path=screenshots / f"status-page{'-dark' if scheme == 'dark' else ''}.png", animations="disabled")


def test_phone(page: Page, busy: HttpWorld) -> None:
    """Nothing is wider than the screen."""
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    open_page(page, busy)
    expect(page.get_by_role("img", name="Lag: highest")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_hostile_ids(page: Page, http: HttpWorld, world: World) -> None:
    """They are shown as text, run nothing, and do not widen the page."""
    for vod_id in HOSTILE:
        world.send(vod_id, 5)
    world.flush()
    http.start()
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    messages = open_page(page, http)
    for vod_id in HOSTILE:
        expect(page.get_by_text(vod_id, exact=True)).to_be_visible()
    assert "hacked" not in page.title()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert messages == []


def test_page_renews_itself(page: Page, http: HttpWorld, world: World, redis_url: str, redis_proxy: Proxy) -> None:
    """New views and a Redis that hangs appear without a reload; so does the end of the worker."""
    http.start(redis_url=redis_proxy.url(redis_url))
    open_page(page, http)
    expect(page.get_by_text("Pending views").locator("xpath=../dd/b")).to_have_text("0")
    world.send("a", 1234, announce=True)
    expect(page.get_by_text("Pending views").locator("xpath=../dd/b")).to_have_text("1,234")
    redis_proxy.blackhole()
    expect(page.get_by_role("heading", name="Redis cannot be read")).to_be_visible()
    redis_proxy.heal()
    expect(page.get_by_role("heading", name="Redis cannot be read")).to_have_count(0)
    http.stop()
    expect(page.get_by_text("The worker does not answer.")).to_be_visible()
    expect(page.get_by_text("Pending views").locator("xpath=../dd/b")).to_have_text("1,234")


def test_servers_down(page: Page, http: HttpWorld) -> None:
    """Each is named with a reason and a remedy."""
    http.start(redis_url=f"redis://{LOOPBACK}:1/0", database_url=f"postgresql://me@{LOOPBACK}:1/views")
    open_page(page, http)
    for server in ("Redis", "PostgreSQL"):
        problem = page.get_by_role("alert").filter(has_text=f"{server} cannot be read")
        expect(problem).to_contain_text("Remedy: ")
    expect(page.locator("header .status")).to_have_text("unhealthy")
