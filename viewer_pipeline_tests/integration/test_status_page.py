"""The status page over HTTP: its numbers, hostile text, servers that are down, and nothing secret."""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest

from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.home_lock_and_server_urls import SERVERS_FILE, STARTED_AT, STARTING, lock_home_directory
from viewer_pipeline.monitoring import bounded_probe
from viewer_pipeline.monitoring.dagster_tables import SENSOR, SWEEP
from viewer_pipeline.monitoring.status_page import page as status_page
from viewer_pipeline.monitoring.status_page import postgres_reading
from viewer_pipeline.monitoring.status_page.postgres_reading import MAX_PARKED
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.http_world import SECRET, HttpWorld
from viewer_pipeline_tests.support.ledger_world import ONE, History
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

UI = "https://dagster.example.com/prefix"
HOSTILE = ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "exe.\u202egpj", "a\nb"]


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the servers at every request."""
    monkeypatch.setattr(bounded_probe, "MIN_INTERVAL_SECONDS", 0)
    monkeypatch.setattr(status_page, "CACHE_SECONDS", 0)


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []  # element, name, value
        self.parts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep its attributes."""
        self.attributes += [(tag, "", ""), *((tag, name, value or "") for name, value in attrs)]

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.parts.append(data)

    @property
    def text(self) -> str:
        """The text with single blanks."""
        return " ".join(" ".join(self.parts).split())


def read_page(http: HttpWorld) -> Elements:
    """Request the page; it answers 200, whatever the status is."""
    response = http.request("/")
    assert response.status == 200
    return Elements(response.body)


def test_pending_and_persisted(http: HttpWorld, world: World) -> None:
    """Views in Redis, the age of the oldest, views in PostgreSQL, and the flush that carried them."""
    world.send("a", 1200)
    world.send("b", 34)
    world.flush()
    world.send("c", 7, announce=True)
    http.start()
    text = read_page(http).text
    assert re.search(r"Pending views 7 in Redis, not yet in PostgreSQL, of 1 announced VOD", text)
    assert re.search(r"Oldest pending view \d+ days waits for the next flush", text)  # the score that the test wrote
    assert "Persisted views 1,234 in PostgreSQL" in text
    assert re.search(r"Last flush \d s ago number 1, mode sweep, 1,234 views", text)
    assert re.search(r"1 \d\d:\d\d:\d\d sweep 1,234 2 1 \d\.\d\d ", text)
    assert re.search(r"Top VODs of the day VOD Views a 1,200 b 34 ", text)
    assert "Views per minute: highest" in str(read_page(http).attributes)


def test_empty_pipeline(http: HttpWorld) -> None:
    """A fresh install says that nothing was flushed yet."""
    http.start()
    text = read_page(http).text
    for line in ("Pending views 0", "Oldest pending view none", "Persisted views 0", "Last flush none yet"):
        assert line in text
    assert text.count("No flush yet.") == 3  # two charts and the table
    assert "Lag age of the oldest pending view; highest of 2 minutes Not measured yet." in text
    assert "No views today." in text


def test_charts_without_views_of_the_last_hours(http: HttpWorld, world: World) -> None:
    """An old flush is one, although the charts do not show it."""
    History(world).flush(datetime.now(UTC) - ONE, {"a": 1})
    http.start()
    text = read_page(http).text
    assert "the last ones not complete No views within the last 3 hours." in text
    assert "No flush yet." not in text


def well(dagster: DagsterWorld) -> None:
    """Have Dagster run, and find nothing to do."""
    dagster.beat_all()
    dagster.register()
    dagster.tick(SENSOR, 1, skip="no VOD was <announced>")
    dagster.tick(SWEEP, 1, skip="nothing to flush")


def test_reasons_of_a_pause(dagster: DagsterWorld, http: HttpWorld, world: World) -> None:
    """Nothing pending is idle, new views wait, old ones stall; after a flush there is nothing to explain."""
    well(dagster)
    http.start()
    text = read_page(http).text
    assert re.search(r"Idle: nothing was persisted so far the sensor skipped \d s ago: no VOD was <announced> ", text)
    assert "nothing is pending: no VOD is announced, and no message was received yet Views per minute" in text
    world.client.zadd(world.stores.redis.names.changed, {"a": time.time() * 1000})
    assert "Waiting: nothing was persisted so far" in read_page(http).text
    world.client.zadd(world.stores.redis.names.changed, {"a": time.time() * 1000 - 90_000})
    text = read_page(http).text
    assert "Stalled: nothing was persisted so far" in text
    assert "1 VOD pending until the sensor ticks, every 30 s" in text
    world.send("a", 3)
    world.flush()
    assert "nothing was persisted" not in read_page(http).text


def test_reasons_of_a_stall(dagster: DagsterWorld, http: HttpWorld, world: World) -> None:
    """What prevents flushes comes first, with the age of the last flush; of this worker, why it receives nothing."""
    History(world).flush(datetime.now(UTC) - ONE, {"a": 1})
    world.execute("UPDATE viewer.flush SET committed_at = taken_at")
    well(dagster)
    dagster.beat_all(600)
    http.stats.enter_state("reconnecting", "refused")
    http.start()
    text = read_page(http).text
    assert (
        "Stalled: nothing was persisted since the last flush, 24 h ago Dagster's daemon: no heartbeat for 10 min"
        in text
    )
    assert "this worker: reconnecting: refused; messages that are published now are missed" in text


def test_hostile_text_is_escaped(http: HttpWorld, world: World) -> None:
    """Ids of VODs and names in incidents are text, with invisible characters as escapes."""
    for vod_id in HOSTILE:
        world.send(vod_id, 5)
    world.flush()
    with world.stores.ledger.connect() as connection:
        record_incidents(connection, RunNotes(drift=3, drifted=tuple(HOSTILE)), "run")
    http.start()
    elements, body = read_page(http), http.request("/").body
    assert "alert(1)" in body
    assert {tag for tag, *_ in elements.attributes} & {"img", "iframe"} == set()
    assert [value for tag, name, value in elements.attributes if tag == "script" and name] == ["status.js", ""]
    for escaped in (
        "<script>alert(1)</script>",
        "\"'><img src=x onerror=alert(1)>",
        "{{ 7 * 7 }}",
        r"exe.\u202egpj",
        r"a\nb",
    ):
        assert escaped in elements.text
    assert "\u202e" not in body


def test_page_can_run_nothing_foreign(http: HttpWorld) -> None:
    """Everything comes from this server; nothing is inline, so that the policy is strict."""
    http.start(dagster_ui_url=UI)
    page = http.request("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy.pop("img-src") == "data:"
    assert policy.pop("default-src") == policy.pop("base-uri") == policy.pop("form-action") == "'none'"
    assert policy.pop("frame-ancestors") == "'none'"
    assert policy == dict.fromkeys(("script-src", "style-src", "connect-src"), "'self'")
    assert page.headers["x-content-type-options"] == "nosniff"
    attributes = Elements(page.body).attributes
    assert [entry for entry in attributes if entry[1] == "style" or entry[1].startswith("on")] == []
    assert "<style" not in page.body
    sources = {value for tag, name, value in attributes if name in ("src", "href") and tag in ("script", "link", "img")}
    assert sources == {"status.js", "status.css", "data:,"}
    for name, media_type in (("status.js", "text/javascript"), ("status.css", "text/css")):
        assert http.request(f"/{name}").headers["content-type"].partition(";")[0] == media_type


def test_links_to_dagster(dagster: DagsterWorld, http: HttpWorld, world: World) -> None:
    """Runs are links if DAGSTER_UI_URL is set, and an id that is none is not."""
    run_id, last = str(uuid4()), dagster.run(dg.DagsterRunStatus.SUCCESS)
    world.send("a")
    world.flush(run_id=run_id)
    world.send("a")
    world.flush(run_id="../evil")
    http.start(dagster_ui_url=f"{UI}/")
    links = [value for tag, name, value in read_page(http).attributes if (tag, name) == ("a", "href")]
    assert {f"{UI}/runs/{run_id}", f"{UI}/runs/{last}", f"{UI}/automation"} <= {*links}
    assert not any("evil" in link for link in links)


def test_no_links_without_an_address(http: HttpWorld, world: World) -> None:
    """The run is named all the same."""
    run_id = str(uuid4())
    world.send("a")
    world.flush(run_id=run_id)
    http.start()
    page = read_page(http)
    assert run_id[:8] in page.text
    assert {value for _, name, value in page.attributes if name == "href"} == {
        "status.css",
        "data:,",
        "health",
        "metrics",
    }


def test_parked_rejected_and_incidents(http: HttpWorld, world: World) -> None:
    """By reason with numbers; incidents with what to do."""
    world.execute(
        "INSERT INTO viewer.parked (vod_id, views, reason, last_flush, updated_at)"
        " VALUES ('a', 5, 'no row', 1, now()), ('b', 6, 'no row', 1, now())"
    )
    world.execute("INSERT INTO viewer.rejected_count (source, reason, inputs) VALUES ('message', 'not JSON', 1234)")
    with world.stores.ledger.connect() as connection:
        record_incidents(connection, RunNotes(redis_emptied=True), "run")
    http.start()
    text = read_page(http).text
    assert re.search(r"parked: no row \(2 VODs, oldest \d+ s ago\) 11 views", text)
    assert "rejected message: not JSON 1,234" in text
    assert "Redis was emptied or replaced" in text
    assert "see viewer-pipeline docs redis-emptied , then run viewer-pipeline acknowledge redis_emptied" in text
    assert "; 1 time; run run" in text  # nobody knows how many views: "0 views" would tell a number
    assert "incidents: degraded" not in text  # they are listed
    assert "incidents degraded Redis was emptied" in text  # in the table of the checks


def test_more_parked_vods_than_are_read(http: HttpWorld, world: World) -> None:
    """Their numbers are shown as a lower bound."""
    world.execute(
        "INSERT INTO viewer.parked (vod_id, views, reason, last_flush, updated_at)"
        f" SELECT vod_id, 5, 'no row', 1, now() FROM generate_series(1, {MAX_PARKED + 1}) AS vod_id"
    )
    http.start()
    assert re.search(r"no row \(at least 10,000 VODs, oldest [^)]*\) at least 50,000 views", read_page(http).text)


def test_daemons_sensor_and_sweep(dagster: DagsterWorld, http: HttpWorld) -> None:
    """One line for all daemons that run, and the skip reasons of sensor and sweep."""
    well(dagster)
    http.start()
    text = read_page(http).text
    assert "daemons healthy all 6 daemons of Dagster are running" in text
    assert re.search(r"sensor healthy the sensor runs; last tick \d s ago; skipped: no VOD was <announced>", text)
    assert re.search(r"sweep healthy .*skipped: nothing to flush", text)
    assert "Viewer Pipeline healthy As of" in text
    assert "Checks Of the last 10 s, so they may be older than the numbers above; unhealthy ones of now." in text


def test_top_vods_of_the_day(http: HttpWorld, world: World) -> None:
    """What is rolled up and what came since; neither yesterday nor repairs."""
    history, now = History(world), datetime.now(UTC)
    history.flush(now - ONE, {"old": 99})
    history.flush(now, {"a": 5, "b": 3})
    history.roll_up(now.date(), now.date() + ONE)
    http.start()
    assert "VOD Views a 5 b 3 20" in read_page(http).text
    history.flush(now, {"b": 4, "c": 1})
    history.flush(now, {"c": 1000}, mode="reconcile")
    assert "VOD Views b 7 a 5 c 1 20" in read_page(http).text
    history.roll_up(now.date(), now.date() + ONE)
    assert "VOD Views b 7 a 5 c 1 20" in read_page(http).text


def test_redis_that_hangs(http: HttpWorld, world: World, redis_url: str, redis_proxy: Proxy) -> None:
    """The page reports it, shows what PostgreSQL has, and heals."""
    world.send("a", 12)
    world.flush()
    http.start(redis_url=redis_proxy.url(redis_url))
    assert "Pending views 0" in read_page(http).text
    redis_proxy.blackhole()
    wait_until(lambda: "Redis cannot be read" in read_page(http).text, 5, "the page says that Redis is down")
    text = read_page(http).text
    assert "Viewer Pipeline unhealthy" in text
    assert "Pending views unknown" in text
    assert "Persisted views 12" in text
    redis_proxy.heal()
    wait_until(lambda: "Pending views 0" in read_page(http).text, 30, "it healed")


def test_remedy_of_an_embedded_server_that_hangs(
    http: HttpWorld, redis_url: str, redis_proxy: Proxy, tmp_path: Path
) -> None:
    """It is the same from the first page on, also while the check is older than the hang."""
    http.hangs = True
    with lock_home_directory(tmp_path):
        url = redis_proxy.url(redis_url)
        (tmp_path / SERVERS_FILE).write_text(json.dumps({"redis_url": url, STARTING: False}))
        http.start(viewer_home=tmp_path, redis_url=url)
        assert "Pending views 0" in read_page(http).text
        redis_proxy.blackhole()
        first = read_page(http).text
        assert "Redis cannot be read" in first
        for text in first, read_page(http).text:
            assert text.count("Remedy: none if it ended: up restarts it within a minute; if it hangs") == 1


def test_start_of_up(dagster: DagsterWorld, http: HttpWorld, tmp_path: Path, world: World) -> None:
    """What `up` has not started yet is no problem with a remedy; anything else is."""
    well(dagster)
    dagster.beat_all(600)
    http.stats.enter_state("starting")
    with lock_home_directory(tmp_path):
        http.start(viewer_home=tmp_path)
        page = read_page(http)
        assert "Viewer Pipeline starting As of" in page.text
        assert "Starting Not all processes of up run yet." in page.text
        assert "Remedy" not in page.text
        world.execute("INSERT INTO viewer.incident (kind, message, run_id, views) VALUES ('drift', 'm', 'r', 7)")
        wait_until(lambda: "Viewer Pipeline degraded As of" in read_page(http).text, 30, "the incident")
        assert read_page(http).text.count("Remedy") == 1
        (tmp_path / SERVERS_FILE).write_text(json.dumps({STARTING: False, STARTED_AT: time.time() - 60}))
        assert "Starting Not all" in read_page(http).text  # Dagster's daemon has no heartbeat of this start yet
        (tmp_path / SERVERS_FILE).write_text(json.dumps({STARTING: False, STARTED_AT: time.time() - 121}))
        text = read_page(http).text
    assert "Starting Not all" not in text
    assert "daemons: degraded no heartbeat for 10 min Remedy: start Dagster's daemon, or viewer-pipeline up" in text


def test_many_viewers_of_a_redis_that_hangs(http: HttpWorld, redis_url: str, redis_proxy: Proxy) -> None:
    """They share one reading, so that 40 threads, which all paths share, do not delay /health."""
    http.hangs = True
    http.start(redis_url=redis_proxy.url(redis_url))
    redis_proxy.blackhole()
    with ThreadPoolExecutor(80) as viewers:
        pages = [viewers.submit(http.request, "/") for _ in range(80)]
        assert http.request("/ping").status == 200
        assert http.request("/health").status == 503
        assert all("Redis cannot be read" in page.result().body for page in pages)
    assert 1 <= sum(thread.name.startswith("AnyIO") for thread in threading.enumerate()) <= len(("/", "/health"))


def test_servers_out_of_reach(http: HttpWorld) -> None:
    """Both are named with reason and remedy, without their passwords."""
    http.start(redis_url=f"redis://:{SECRET}@{LOOPBACK}:1/0", database_url=f"postgresql://me:{SECRET}@{LOOPBACK}:1/x")
    text = read_page(http).text
    for server in ("Redis", "PostgreSQL"):
        assert f"{server} cannot be read" in text
    assert f"redis://:***@{LOOPBACK}:1/0" in text
    assert f"postgresql://me:***@{LOOPBACK}:1/x" in text
    assert text.count("Remedy: ") >= 2
    assert "Persisted views unknown" in text


def test_stopping_worker(http: HttpWorld) -> None:
    """The page says that the worker is stopping."""
    http.start()
    http.stopping = True
    assert "subscriber: unhealthy the worker is stopping" in read_page(http).text


def test_connection_is_kept_for_a_while(http: HttpWorld, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another page is read on the same one; it is closed after a while, and with the server."""

    def connections() -> set[int]:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return {pid for (pid,) in world.rows(query)} - before

    before = set[int]()
    before = connections()
    http.start()
    read_page(http)
    wait_until(lambda: len(connections()) == 1, 30, "the checks have closed their connections")
    kept = connections()
    read_page(http)
    wait_until(lambda: connections() == kept, 30, "the second page used the same connection")
    http.stop()
    wait_until(lambda: not connections(), 30, "it is closed with the server")
    monkeypatch.setattr(postgres_reading, "KEEP_SECONDS", 0.1)
    http.start()
    read_page(http)
    wait_until(lambda: not connections(), 30, "it is closed when nobody looks")


def test_viewers_share_one_reading(http: HttpWorld, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is young enough is sent again without reading the servers."""
    monkeypatch.setattr(status_page, "CACHE_SECONDS", 600)
    http.start()
    first = http.request("/").body
    world.send("a", announce=True)
    assert http.request("/").body == first
    monkeypatch.setattr(status_page, "CACHE_SECONDS", 0)
    assert "Pending views 1 " in read_page(http).text
