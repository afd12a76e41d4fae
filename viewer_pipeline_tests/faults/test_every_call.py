"""A flush that is killed after every call that it makes was executed, before its reply; and before the first."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from viewer_pipeline.flush import counter_reader
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.counter_validation import MAX_COUNT
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import Mode
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.redis_names import MARKER
from viewer_pipeline_tests.support.calls import Killer, Point, client_of_threads, in_child, points_of_a_run, watched
from viewer_pipeline_tests.support.totals_statements import UPSERT, forced
from viewer_pipeline_tests.support.world import PREFIX, ConnectedWorld, World

FULL = "full"  # a VOD with the highest possible total: its views are parked
REJECTS = {"abc": "value is not an integer", "a list": "key is a list, not a string"}
RUN_COUNTERS = 7  # of 13: two runs
PARTS = 2  # tests that share the points: all of them together exceed a test's timeout on a busy machine


class Scene:
    """Both servers in a state that exercises every call, with a method to restore it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._fill()
        self._sent, self.totals = world.sent.copy(), world.totals()
        self._tables = [name for (name,) in world.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'viewer'")]
        world.execute("CREATE SCHEMA saved")
        for table in self._tables:
            world.execute(f"CREATE TABLE saved.{table} AS TABLE viewer.{table}")
        keys: Any = world.client.keys()
        self._keys: dict[bytes, Any] = {key: world.client.dump(key) for key in keys}
        self._empty = [f"DELETE FROM viewer.{table}" for table in self._tables]  # faster than TRUNCATE for so few rows

    def _fill(self) -> None:
        world = self.world
        world.send_many(5)
        world.flush()
        row = "INSERT INTO viewer.vod_view_counts VALUES ('full', %s, %s, 1, now())"
        world.execute(row, MAX_COUNT - 1, MAX_COUNT - 1)
        world.send_many(4, 5)
        world.flush_unsettled()
        for number in range(9):
            world.send(f"vod{number:04d}", number + 1, announce=True)
        world.send(FULL, 7, announce=True)
        world.client.set(PREFIX + "abc", "x")
        world.client.rpush(PREFIX + "a list", "x")
        world.client.set(PREFIX + "idle", 0)
        world.client.zadd("viewer:changed", {"abc": 1, "a list": 1, "idle": 1, "gone": 1})
        world.stores.redis.request_sweep("test")

    def restore(self) -> None:
        """Restore the state of both servers."""
        copies = [f"INSERT INTO viewer.{table} TABLE saved.{table}" for table in self._tables]
        self.world.execute("; ".join([*self._empty, *copies]))
        with self.world.client.pipeline(transaction=False) as pipe:
            pipe.script_flush()
            pipe.flushall()
            for key, value in self._keys.items():
                pipe.restore(key, 0, value)
            pipe.execute()
        self.world.sent = self._sent.copy()

    def assert_nothing_fell(self, before: dict[str, int]) -> dict[str, int]:
        """Assert that totals are not lower than before, nor higher than the views sent; return them."""
        totals = self.world.totals()
        assert {vod_id: views for vod_id, views in before.items() if totals.get(vod_id, 0) < views} == {}
        assert {vod_id: views for vod_id, views in totals.items() if views > self.world.sent[vod_id]} == {}
        return totals

    def assert_whole(self) -> None:
        """Assert that every view is persisted or parked once, every reject is recorded once, and all is settled."""
        world = self.world
        world.assert_conserved()
        assert Counter(world.counters()) == Counter()
        assert Counter(world.totals()) + Counter(world.parked()) == world.sent
        assert world.parked() == {FULL: 7}
        assert world.rejected() == REJECTS
        marker = world.marker()
        assert marker is not None
        assert (marker.seq, marker.batch) == world.rows("SELECT seq, batches FROM viewer.flush ORDER BY seq DESC")[0]


class HoldingScene(Scene):
    """Redis was restored from a copy without its marker: its counters hold new views, and views that were counted."""

    def _fill(self) -> None:
        world = self.world
        world.send_many(5)
        world.flush()
        for vod_id, views in world.sent.items():
            world.client.set(PREFIX + vod_id, views)
        self._counted_before = world.sent.copy()
        world.client.delete(MARKER)
        for number in range(7):
            world.send(f"vod{number:04d}", number + 1, announce=True)

    def assert_whole(self) -> None:
        """Assert that every view is persisted once, and all that was found twice is held: all is settled."""
        world = self.world
        assert Counter(world.counters()) == Counter()
        assert Counter(world.totals()) + world.held() == world.sent + self._counted_before
        assert Counter(world.totals()) <= world.sent
        marker = world.marker()
        assert marker is not None
        assert (marker.seq, marker.batch) == world.rows("SELECT seq, batches FROM viewer.flush ORDER BY seq DESC")[0]


@pytest.fixture
def scene(stores: Stores) -> Iterator[Scene]:
    """The state, prepared."""
    with ConnectedWorld(stores) as world:
        yield Scene(world)


@pytest.fixture
def holding_scene(stores: Stores) -> Iterator[HoldingScene]:
    """The state, prepared."""
    with ConnectedWorld(stores) as world:
        yield HoldingScene(world)


def run(stores: Stores, mode: Mode) -> None:
    """Run whole flushes until nothing remains, on connections of their own."""
    url = stores.redis.url
    with client_of_threads(url) as client, stores.ledger.keeping_connections() as ledger:
        own = Stores(RedisStore(client, url, PREFIX), ledger)
        remaining = 1
        while remaining:
            snapshot = drain(own, World.request(mode, run_max_counters=RUN_COUNTERS))
            persisted = bulk_upsert(own, snapshot, aggregate(snapshot.readings))
            assert [check for check in verify(own, persisted) if not check.passed] == []
            remaining = persisted.remaining


def seconds_used() -> tuple[float, float]:
    """Return the elapsed time, and the CPU time of this process and its children."""
    times = os.times()
    return times.elapsed, sum(times[:4])


@pytest.fixture
def _statement_of_mode(mode: Mode, world: World) -> Iterator[None]:
    """Let flushes of the changed set add to the totals by the statement for old versions of PostgreSQL."""
    with forced(UPSERT, world) if mode == "changed" else nullcontext():
        yield


@pytest.fixture
def _short_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each SCAN call return few keys, as if there were many."""
    monkeypatch.setattr(counter_reader, "SCAN_COUNT", 2)


@pytest.mark.usefixtures("_statement_of_mode", "_short_scans")
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("mode", ["sweep", "changed"])
def test_a_flush_is_killed_at_every_call(
    scene: Scene, mode: Mode, part: int, tmp_path: Path, add_to_summary: Callable[[str], None]
) -> None:
    """Wherever it dies, the next flush completes every count, and no total ever falls or is too high."""
    points = kill_at_every_call(scene, mode, part, tmp_path, add_to_summary)
    assert {"postgres COMMIT", "postgres insert_flush", "redis EVALSHA begin"} <= {p.call for p in points}


@pytest.mark.usefixtures("_short_scans")
@pytest.mark.parametrize("part", range(PARTS))
def test_a_flush_that_holds_is_killed_at_every_call(
    holding_scene: HoldingScene, part: int, tmp_path: Path, add_to_summary: Callable[[str], None]
) -> None:
    """Wherever it dies, no view counts twice and none is lost (rule R16)."""
    points = kill_at_every_call(holding_scene, "sweep", part, tmp_path, add_to_summary)
    assert {"postgres hold_views", "postgres views_counted_before"} <= {p.call for p in points}
    assert hold_of(holding_scene.world) == ""


def hold_of(world: World) -> str:
    """Return `hold` of the marker."""
    marker = world.stores.redis.marker()
    assert marker is not None
    return marker.hold


def kill_at_every_call(
    scene: Scene, mode: Mode, part: int, tmp_path: Path, add_to_summary: Callable[[str], None]
) -> list[Point]:
    """Kill a run at each of its points, and complete it; return the points."""
    started, world = seconds_used(), scene.world
    scene.restore()
    points = points_of_a_run(partial(run, world.stores, mode), tmp_path)
    scene.assert_whole()
    for point in points[part::PARTS]:
        scene.restore()
        killed = in_child(watched(Killer(point), partial(run, world.stores, mode)), tmp_path / "report")
        assert killed == -9, point
        try:
            totals = scene.assert_nothing_fell(scene.totals)
            world.send("vod0001", 10, announce=True)
            world.send("late", 1, announce=True)
            for done in world.flush_in_parts(RUN_COUNTERS):
                assert done.notes.drift == 0
            scene.assert_nothing_fell(totals)
            scene.assert_whole()
        except AssertionError as error:
            error.add_note(f"killed: {point}")
            raise
    wall, cpu = (now - then for now, then in zip(seconds_used(), started, strict=True))
    calls = len({point[:2] for point in points})
    tried = f"part {part + 1} of {PARTS} of {len(points)} crash points of {calls} calls"
    add_to_summary(f"{type(scene).__name__}, {mode}: {tried} in {wall:.0f} s, {cpu:.0f} s of them ours")
    return points
