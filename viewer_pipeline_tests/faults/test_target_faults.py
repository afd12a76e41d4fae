"""Flushes into the user's table that are killed at every call, and many of them beside editors of that table."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from viewer_pipeline.errors import TransientError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.held_views import count_held, held_by_epoch
from viewer_pipeline.target.table import TargetNames
from viewer_pipeline_tests.faults.test_every_call import Scene, run
from viewer_pipeline_tests.support.calls import Killer, client_of_threads, in_child, points_of_a_run, watched
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.waiting import ENOUGH
from viewer_pipeline_tests.support.world import PREFIX, ConnectedWorld, World

INT4 = 2**31 - 1
VIDEO = TargetNames.parse("viewer.video", "id", "n")  # in our schema, so that the scene saves and restores it
EDIT = """UPDATE public."Vod" SET "title" = "title" || '!' WHERE "id" = %s"""
PARKED = {"full": 7, "ghost": 2}


class TargetScene(Scene):
    """A table with most rows; parked views whose row exists by now; a flush that is committed, not settled."""

    def _fill(self) -> None:
        world = self.world
        world.execute("CREATE TABLE viewer.video (id text PRIMARY KEY, n integer)")
        world.send("late", 5)
        world.send_many(5)
        world.flush()
        rows = "INSERT INTO viewer.video SELECT id, 0 FROM unnest(%s::text[]) AS id"
        world.execute(rows, [f"vod{number:04d}" for number in range(9)])
        world.execute("INSERT INTO viewer.video VALUES ('full', %s)", INT4 - 6)
        world.send_many(4, 5)
        world.flush_unsettled()
        world.execute(rows, ["late"])
        for number in range(9):
            world.send(f"vod{number:04d}", number + 1, announce=True)
        world.send("full", 7, announce=True)
        world.send("ghost", 2, announce=True)

    def assert_whole(self) -> None:
        """Assert that all views but the parked ones are in the table and in the totals."""
        world = self.world
        world.assert_conserved()
        assert world.counters() == {}
        assert world.parked() == PARKED
        counts = dict(world.rows("SELECT id, n FROM viewer.video WHERE id <> 'full'"))
        assert counts == world.totals()
        assert world.rows("SELECT n FROM viewer.video WHERE id = 'full'") == [(INT4 - 6,)]


@pytest.fixture
def scene(stores: Stores) -> Iterator[TargetScene]:
    """The state, prepared."""
    with ConnectedWorld(Stores(stores.redis, Ledger(stores.ledger.url, VIDEO))) as world:
        yield TargetScene(world)


class HeldScene(Scene):
    """Held views of a table with most rows, views that came since, and a flush that is committed, not settled."""

    def _fill(self) -> None:
        world = self.world
        world.execute("CREATE TABLE viewer.video (id text PRIMARY KEY, n integer)")
        world.execute("INSERT INTO viewer.video SELECT 'vod000' || n, 0 FROM generate_series(0, 6) AS n")
        world.execute("INSERT INTO viewer.video VALUES ('full', %s)", INT4 - 6)
        for _ in range(2):
            world.send_many(5, 2)
            world.send("full", 3)
            world.send("ghost", 1)
            world.flush()
            world.client.delete(world.stores.redis.names.marker)
        assert world.held() == {**{f"vod{number:04d}": 2 for number in range(5)}, "full": 3, "ghost": 1}
        world.flush()  # nothing is held any more
        world.send_many(3, 5)
        world.flush_unsettled()

    def assert_whole(self) -> None:
        """Assert that all held views are in table and totals, or parked."""
        world = self.world
        world.assert_conserved()
        assert not world.held()
        assert world.parked() == {"ghost": 2}
        counts = {f"vod{number:04d}": 0 for number in range(7)} | world.totals()
        assert dict(world.rows("SELECT id, n FROM viewer.video")) == counts | {"full": INT4}
        assert world.rows("SELECT sum(vods), sum(views) FROM viewer.held_decision") == [(7, 14)]


def count_all_held(stores: Stores) -> None:
    """Count what is held, on connections of its own."""
    with client_of_threads(stores.redis.url) as client, stores.ledger.connect() as connection:
        own = Stores(RedisStore(client, stores.redis.url, PREFIX), stores.ledger)
        adjuster = Adjuster(own, connection, uuid4().hex, 2)
        for held in held_by_epoch(connection):
            count_held(adjuster, own.ledger.target(connection), held.epoch, 3)


def test_counting_held_views_is_killed_at_every_call(
    stores: Stores, tmp_path: Path, add_to_summary: Callable[[str], None]
) -> None:
    """Wherever it dies, the next one counts the rest, each view once (rule R16)."""
    with ConnectedWorld(Stores(stores.redis, Ledger(stores.ledger.url, VIDEO))) as world:
        scene, count_held_views = HeldScene(world), partial(count_all_held, world.stores)
        scene.restore()
        points = points_of_a_run(count_held_views, tmp_path)
        world.flush()
        scene.assert_whole()
        assert {"postgres take_counted", "postgres COMMIT", "postgres add_range_to_totals"} <= {
            point.call for point in points
        }
        for point in points:
            scene.restore()
            assert in_child(watched(Killer(point), count_held_views), tmp_path / "report") == -9, point
            try:
                scene.assert_nothing_fell(scene.totals)
                world.send("vod0001", 10, announce=True)
                if points.index(point) % 2:
                    world.flush()  # before the rest is counted, or after it
                count_all_held(world.stores)
                world.flush()
                scene.assert_whole()
            except AssertionError as error:
                error.add_note(f"killed: {point}")
                raise
    add_to_summary(f"held views: {len(points)} crash points of {len({point[:2] for point in points})} calls")


def test_killed_at_every_call(scene: TargetScene, tmp_path: Path, add_to_summary: Callable[[str], None]) -> None:
    """Wherever it dies, the next sweep completes table and totals, and neither ever falls.

    Those to Redis are the same as without a table: test_every_call.py.
    """
    world = scene.world
    sweep = partial(run, world.stores, "sweep")
    scene.restore()
    points = [point for point in points_of_a_run(sweep, tmp_path) if point.call.startswith("postgres")]
    scene.assert_whole()
    for point in points:
        scene.restore()
        assert in_child(watched(Killer(point), sweep), tmp_path / "report") == -9, point
        try:
            totals = scene.assert_nothing_fell(scene.totals)
            assert [row for row in differing_counts(world) if row[0] != "full"] == []
            world.send("vod0001", 10, announce=True)
            world.flush()
            scene.assert_nothing_fell(totals)
            scene.assert_whole()
        except AssertionError as error:
            error.add_note(f"killed: {point}")
            raise
    add_to_summary(f"into a table: {len(points)} crash points of {len({point[:2] for point in points})} calls")
    assert "postgres apply_parked" in {point.call for point in points}


def differing_counts(world: World) -> list[tuple[str, int, int]]:
    """Return the rows in which table and totals differ, always empty: they change in one transaction."""
    return world.rows(
        "SELECT id, n, view_count FROM viewer.video LEFT JOIN viewer.vod_view_counts ON vod_id = id"
        " WHERE coalesce(n, 0) <> coalesce(view_count, 0)"
    )


def test_concurrent_sweeps_and_editors(stores: Stores) -> None:
    """Concurrent sweeps, editors, new and deleted VODs, made-up ids: views are conserved, no edit is lost."""
    world = TargetWorld(stores)
    world.make_streamix()
    stay = [f"vod{number:04d}" for number in range(40)]
    world.add_vods(*stay)
    stop = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        flushers = [pool.submit(_sweep, world, stop) for _ in range(3)]
        editor = pool.submit(_edit, stores.ledger.url, stay, stop)
        owner = pool.submit(_insert_and_delete, stores.ledger.url, stop)
        chosen, number = random.Random(5), 0
        while world.rows("SELECT count(*) FROM viewer.flush")[0][0] < 60:  # each one a moment for others to meet it
            number += 1
            vod_id = chosen.choice([*stay, "comes", "goes", f"made up {number}"])
            world.send(vod_id, chosen.randint(1, 3), announce=chosen.random() < 0.5)
        stop.set()
        for done in flushers:
            done.result(ENOUGH)
        edits, changes = editor.result(ENOUGH), owner.result(ENOUGH)
    assert edits > 0
    assert changes > 0
    for _ in range(2):
        world.flush(flush_max_counters=100)
    assert world.counters() == {}
    world.assert_conserved()
    totals = world.totals()
    assert dict(world.rows('SELECT "id", "viewCount" FROM public."Vod" WHERE "id" LIKE \'vod%\'')) == {
        vod_id: totals.get(vod_id, 0) for vod_id in stay
    }
    assert world.rows("SELECT sum(length(title) - length('Title of ' || id)) FROM public.\"Vod\"") == [(edits,)]


def _sweep(world: TargetWorld, stop: threading.Event) -> None:
    own = TargetWorld(world.stores, world.names)
    while not stop.is_set():
        with suppress(TransientError):  # another one moved the marker again and again: the next run continues
            own.flush(flush_max_counters=20)


def _edit(url: str, vod_ids: list[str], stop: threading.Event) -> int:
    """Append a letter to titles, several in one transaction, in any order; return the number of committed edits."""
    chosen, edits = random.Random(6), 0
    with psycopg.connect(url, autocommit=True) as connection:
        while not stop.is_set():
            edited = chosen.sample(vod_ids, 3)
            try:
                with connection.transaction():
                    for vod_id in edited:
                        connection.execute(EDIT, [vod_id])
            except psycopg.errors.DeadlockDetected:  # with a flush: PostgreSQL may abort either
                continue
            edits += len(edited)
    return edits


def _insert_and_delete(url: str, stop: threading.Event) -> int:
    """Insert a VOD and delete another, repeatedly; return the number of rounds."""
    changes = 0
    new = """
        INSERT INTO public."Vod" ("id", "channelId", "title", "s3Bucket", "s3Region", "s3Key")
        SELECT %s, 'channel', 'Title of ' || %s, '', '', '' ON CONFLICT DO NOTHING
    """
    with psycopg.connect(url, autocommit=True) as connection:
        while not stop.is_set():
            for vod_id in ("comes", "goes"):
                connection.execute(new, [vod_id, vod_id])
            connection.execute("""DELETE FROM public."Vod" WHERE "id" = 'goes'""")
            changes += 1
    return changes
