"""Reconciliation: every kind of difference is found, mended where told, and never made up while flushes run."""

from __future__ import annotations

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import Event
from typing import Any, Self
from uuid import uuid4

import psycopg
import pytest

from viewer_pipeline.errors import CannotUndo
from viewer_pipeline.flush import steps as flush
from viewer_pipeline.flush.incidents import open_incidents
from viewer_pipeline.flush.redis_store import Marker
from viewer_pipeline.flush.run_metrics import flushes_since
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.history.baseline import take_from_target
from viewer_pipeline.reconcile import mend, totals
from viewer_pipeline.reconcile.adjust import Adjuster
from viewer_pipeline.reconcile.reports import KEPT
from viewer_pipeline.reconcile.run import CHECKS, Reconcile, Reconciled, reconcile
from viewer_pipeline.reconcile.undo import undo
from viewer_pipeline.target.parked import discard_parked, prune_parked
from viewer_pipeline.target.table import TargetNames
from viewer_pipeline_tests.support.ledger_world import History
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.world import PREFIX, World

NOTHING = {"total": 0, "given_up": 0, "target": 0, "marker": 0, "counter": 0, "parked": 0}


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Where reports go."""
    return tmp_path / "reports"


def run(world: World, reports: Path, **options: Any) -> Reconciled:
    """Reconcile once, in batches of two."""
    return reconcile(world.stores, Reconcile(uuid4().hex, reports, batch_size=2, **options))


def undone(world: World, seq: int) -> int:
    """Undo a flush; return the number of the flush that did it."""
    ledger = world.stores.ledger
    with ledger.connect() as connection:
        return undo(Adjuster(world.stores, connection, "undo", 2), ledger.target(connection), seq).seq


def kinds(found: Reconciled) -> dict[str, int]:
    """How many differences were found, of the kinds that were."""
    return {kind: count for kind, count in found.found.items() if count}


def flushed(world: World, vods: int = 10, views: int = 3) -> None:
    """Flush views of so many VODs."""
    world.send_many(vods, views)
    world.flush()


def set_total(world: World, vod_id: str, count: int) -> None:
    """Falsify a total."""
    world.execute("UPDATE viewer.vod_view_counts SET view_count = %s WHERE vod_id = %s", count, vod_id)


def test_nothing_differs(world: World, reports: Path) -> None:
    """Not in an empty database, nor after flushes; a report with a header all the same."""
    assert run(world, reports).found == NOTHING
    flushed(world)
    found = run(world, reports)
    assert (found.found, found.first, found.flushes, found.vods) == (NOTHING, [], [], 10)
    assert found.report.read_text().splitlines() == ["kind,subject,expected,found,said,mendable,basis"]
    assert [check.name for check in found.checks() if check.passed] == list(CHECKS)


def test_the_newest_reports_stay(world: World, reports: Path) -> None:
    """The last thirty; not what a killed run left unfinished long ago. What is no report is left alone."""
    reports.mkdir()
    old = [reports / f"reconcile-20260101T0000{number:02d}Z-{number:08x}.csv" for number in range(KEPT + 3)]
    at_work, killed, other = (
        reports / name for name in ("reconcile-1.csv.partial", "reconcile-2.csv.partial", "a.csv")
    )
    for path in (*old, at_work, killed, other):
        path.touch()
    os.utime(killed, (1, 1))
    newest = [run(world, reports).report for _ in range(2)]
    assert {path.name for path in reports.iterdir()} == {path.name for path in (*old[5:], *newest, at_work, other)}


def test_totals_are_found_and_mended(world: World, reports: Path) -> None:
    """Too high, too low, missing, and of nothing that was ever counted; reported first, then set right."""
    flushed(world)
    set_total(world, "vod0001", 5)
    set_total(world, "vod0002", 1)
    world.execute("DELETE FROM viewer.vod_view_counts WHERE vod_id = 'vod0003'")
    world.execute("INSERT INTO viewer.vod_view_counts VALUES ('made, \"up\"\r\n', 12, 5, 0, now())")
    before = world.totals()
    found = run(world, reports)
    assert kinds(found) == {"total": 4}
    assert found.remaining == 4
    shown = {one.subject: (one.expected, one.found) for one in found.first}
    assert shown == {"vod0001": (3, 5), "vod0002": (3, 1), "vod0003": (3, None), 'made, "up"\r\n': (5, 12)}
    assert [check.name for check in found.checks() if not check.passed] == ["totals_equal_history"]
    with found.report.open(newline="") as file:
        assert {row["subject"]: row["expected"] for row in csv.DictReader(file)} == {
            vod_id: str(expected) for vod_id, (expected, _) in shown.items()
        }
    assert (world.totals(), world.rows("SELECT mode FROM viewer.flush WHERE mode LIKE 'reconcile%'")) == (before, [])
    mended = run(world, reports, repair=True)
    assert (mended.mended["total"], mended.remaining) == (4, 0)
    assert run(world, reports).found == NOTHING
    assert world.totals() == {**world.sent, 'made, "up"\r\n': 0}


def test_a_repair_is_in_the_ledger_and_can_be_undone_once(world: World, reports: Path) -> None:
    """As a flush of its own with what it adjusted; undone by another one, which can be undone as well."""
    flushed(world)
    set_total(world, "vod0001", 5)
    set_total(world, "vod0002", 1)
    (seq,) = run(world, reports, repair=True).flushes
    batches = "SELECT vod_ids, deltas FROM viewer.flush_batch WHERE seq = "
    assert world.rows(f"{batches}{seq}") == [(["vod0001", "vod0002"], [-2, 2])]
    again = undone(world, seq)
    assert world.rows(f"{batches}{again}") == [(["vod0001", "vod0002"], [2, -2])]
    assert (world.totals()["vod0001"], world.totals()["vod0002"]) == (5, 1)
    with pytest.raises(CannotUndo, match=f"flush {seq} was undone already"):
        undone(world, seq)
    undone(world, again)
    assert run(world, reports).found == NOTHING
    for other, said in ((1, "counted views"), (999, "no flush 999")):
        with pytest.raises(CannotUndo, match=said):
            undone(world, other)
    world.execute("DELETE FROM viewer.vod_view_counts WHERE vod_id = 'vod0001'")
    with pytest.raises(CannotUndo, match="'vod0001' has nothing"):
        undone(world, again + 1)


def test_repairs_are_never_subtracted_from_redis(world: World, reports: Path) -> None:
    """Views that are pending stay; the marker passes over, also where the run before it died before it settled."""
    flushed(world)
    set_total(world, "vod0001", 1)
    world.send("vod0001", 7)
    assert run(world, reports, repair=True).remaining == 0
    assert world.counters() == {"vod0001": 7}
    world.flush()
    world.assert_all_persisted()
    with world.stores.ledger.connect() as connection:
        assert {one.mode for one in flushes_since(connection, 0)} == {"sweep"}


def test_a_repair_that_was_not_settled(world: World, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flush before it and the repair itself are settled by the next run, each as it should."""
    world.send("a", 3)
    with monkeypatch.context() as patch:
        patch.setattr(Settler, "add", lambda *_: None)
        world.flush()
    set_total(world, "a", 10)
    world.send("a", 2)
    with monkeypatch.context() as patch:
        patch.setattr(Adjuster, "_settle", lambda *_: None)
        assert run(world, reports, repair=True).flushes == [2]
    assert (world.counters(), world.marker()) == ({"a": 5}, Marker(0, 0, 0))
    done = world.flush()
    assert world.totals() == {"a": 5}
    assert (done.findings.settled_before, done.findings.passed_over, done.findings.drift) == (2, 0, 0)
    assert [check for check in flush.verify(world.stores, done) if not check.passed] == []
    assert run(world, reports).found == NOTHING


def test_the_marker(world: World, reports: Path) -> None:
    """Gone, ahead of the ledger, or left behind: reported, and never touched."""
    flushed(world)
    world.client.hset("viewer:settled", "flush", 99)
    assert "rolled back" in run(world, reports, repair=True).first[0].said
    world.client.hset("viewer:settled", mapping={"flush": 1, "flush_id": ""})
    world.execute("UPDATE viewer.flush SET committed_at = now() - interval '2 minutes'")
    found = run(world, reports, repair=True)
    assert (kinds(found), found.remaining) == ({"marker": 1}, 1)
    assert "not settled" in found.first[0].said
    world.client.delete("viewer:settled")
    assert "no marker" in run(world, reports, repair=True).first[0].said
    assert world.marker() is None


def test_a_repair_after_a_recovery_says_so(world: World, reports: Path) -> None:
    """Its flush is above the marker: no later run could see that this was ahead, nor which flushes are gone."""
    for _ in range(2):
        flushed(world, 2)
    world.execute("DELETE FROM viewer.flush_batch WHERE seq > 1")
    world.execute("DELETE FROM viewer.flush WHERE seq > 1")
    done = run(world, reports, repair=True)
    assert done.flushes == [3]
    with world.stores.ledger.connect() as connection:
        assert [incident.kind for incident in open_incidents(connection)] == ["postgres_rolled_back"]
    marker = world.stores.redis.marker()
    assert marker is not None
    assert (marker.seq, marker.missing) == (3, (1, 2))


def test_counters(world: World, reports: Path) -> None:
    """Bad values and types are reported with their reason, good ones are not; they stay as they are."""
    world.send("good", 3)
    world.client.set(PREFIX + "text", "abc")
    world.client.lpush(PREFIX + "list", "1")
    found = run(world, reports, repair=True)
    assert (kinds(found), found.remaining) == ({"counter": 2}, 2)
    assert {one.subject: one.said for one in found.first} == {
        "text": "value is not an integer: 'abc'",
        "list": "key is a list, not a string",
    }
    assert world.client.get(PREFIX + "text") == b"abc"


def test_days_that_left_the_ledger(world: World, reports: Path) -> None:
    """Their views are in daily_views alone; what is there of days that the ledger still has is not added."""
    flushed(world)
    world.execute("UPDATE viewer.flush SET taken_at = '2026-01-01 23:59:59.9+00'")
    flushed(world, views=4)
    world.execute("UPDATE viewer.flush SET taken_at = '2026-01-02 00:00:00+00' WHERE taken_at > '2026-01-02'")
    History(world).roll_up(date(2026, 1, 1), date(2026, 1, 3))
    assert run(world, reports).found == NOTHING
    world.execute("UPDATE viewer.ledger_kept SET from_day = '2026-01-02'")
    assert run(world, reports).found == NOTHING
    world.execute(
        "DELETE FROM viewer.flush_batch WHERE seq IN (SELECT seq FROM viewer.flush WHERE taken_at < '2026-01-02')"
    )
    world.execute("DELETE FROM viewer.flush WHERE taken_at < '2026-01-02'")
    set_total(world, "vod0001", 1)
    assert run(world, reports, repair=True).mended["total"] == 1
    assert run(world, reports).found == NOTHING
    world.assert_all_persisted()


# --- what was given up ----------------------------------------------------------------------------------------------


@pytest.fixture
def vods(stores: Stores) -> TargetWorld:
    """Streamix's tables, with two VODs that had views before."""
    world = TargetWorld(stores)
    world.make_streamix()
    world.add_vods("a", "b", count=100)
    return world


def take_baseline(world: TargetWorld) -> None:
    """Note that the baseline was taken of what is there now."""
    with world.stores.ledger.connect() as connection:
        take_from_target(connection, world.stores.ledger, again=True)


def give_up(world: TargetWorld, *vod_ids: str, by_hand: bool) -> None:
    """Give the parked views of these VODs up."""
    with world.stores.ledger.connect() as connection:
        if by_hand:
            for vod_id in vod_ids:
                assert discard_parked(connection, vod_id, "discarded by hand")
            return
        world.execute(
            "UPDATE viewer.parked SET first_seen = now() - interval '9 days', updated_at = now() - interval '9 days'"
            " WHERE vod_id = ANY(%s)",
            list(vod_ids),
        )
        target = world.stores.ledger.target(connection)
        assert target is not None
        assert prune_parked(connection, target, 5).vods == len(vod_ids)


@pytest.mark.parametrize("by_hand", [True, False])
def test_what_was_given_up_is_no_difference(vods: TargetWorld, reports: Path, *, by_hand: bool) -> None:
    """By hand or by retention; also of VODs that came later, and were parked again; nothing is mended."""
    for vod_id in ("a", "b", "ghost", "late", "again"):
        vods.send(vod_id, 5)
    vods.flush()
    give_up(vods, "ghost", "late", "again", by_hand=by_hand)
    vods.add_vods("late")
    for vod_id in ("a", "late", "again"):
        vods.send(vod_id, 2)
    vods.flush()
    assert vods.parked() == {"again": 2}
    found = run(vods, reports, repair=True)
    assert (found.found, found.flushes) == (NOTHING, [])
    set_total(vods, "a", 9)
    assert kinds(run(vods, reports, repair=True)) == {"total": 1}
    assert vods.totals() == {"a": 7, "b": 5, "late": 2}


def test_what_cannot_be_told_from_what_was_given_up(vods: TargetWorld, reports: Path) -> None:
    """A total that lacks views, or is missing, may be such: said and left alone; one that has too many is mended."""
    for vod_id in ("a", "b", "ghost", "late"):
        vods.send(vod_id, 5)
    vods.flush()
    give_up(vods, "ghost", "late", by_hand=False)
    vods.add_vods("late")
    vods.send("late", 2)
    vods.flush()
    set_total(vods, "a", 9)
    set_total(vods, "b", 3)
    found = run(vods, reports, repair=True)
    assert (kinds(found), found.mended["total"]) == ({"total": 3, "given_up": 1}, 1)
    assert {one.subject: one.mendable for one in found.first} == {"a": True, "b": False, "late": False, "": False}
    assert [(one.expected, one.found) for one in found.first if one.kind == "given_up"] == [(10, 12)]
    assert vods.totals() == {"a": 5, "b": 3, "late": 2}


def test_what_no_total_explains(vods: TargetWorld, reports: Path) -> None:
    """More is parked than was ever sent, or the parked row alone is wrong: reported, and left alone."""
    vods.send("ghost", 5)
    vods.send("a", 5)
    vods.flush()
    vods.execute("""DELETE FROM public."Vod" WHERE id = 'a'""")
    vods.execute("UPDATE viewer.parked SET views = 50")
    vods.execute("INSERT INTO viewer.parked SELECT 'a', 500, reason, 0, now(), now() FROM viewer.parked")
    found = run(vods, reports, repair=True)
    assert (kinds(found), found.remaining, found.flushes) == ({"total": 2}, 2, [])
    assert all("no total explains that" in one.said for one in found.first)


# --- the user's table -----------------------------------------------------------------------------------------------


def test_the_target_is_compared_only_where_nobody_else_writes_it(vods: TargetWorld, reports: Path) -> None:
    """And only once it is known what was in it before; the notes say why not."""
    vods.send("a", 5)
    vods.flush()
    assert "TARGET_EXCLUSIVE is not true" in run(vods, reports).notes[0]
    without = run(vods, reports, exclusive=True, repair=True)
    assert "no baseline was taken" in without.notes[0]
    said = {check.name: check.message for check in without.checks()}
    assert said["target_equals_totals"].startswith("not compared: no baseline was taken")
    assert vods.target() == {"a": 105, "b": 100}
    take_baseline(vods)
    found = run(vods, reports, exclusive=True)
    assert (found.found, found.notes) == (NOTHING, [])


def test_the_target_is_mended_and_unmended(vods: TargetWorld, reports: Path) -> None:
    """To the totals, which are mended first; each in a flush of its own that can be undone."""
    take_baseline(vods)
    for vod_id in ("a", "b"):
        vods.send(vod_id, 5)
    vods.flush()
    vods.execute("""UPDATE public."Vod" SET "viewCount" = 7 WHERE id = 'a'""")
    set_total(vods, "b", 8)
    found = run(vods, reports, exclusive=True)
    assert {(one.kind, one.subject, one.expected, one.found) for one in found.first} == {
        ("total", "b", 105, 8),
        ("target", "a", 105, 7),
        ("target", "b", 8, 105),
    }
    mended = run(vods, reports, exclusive=True, repair=True)
    assert (kinds(mended), mended.remaining, len(mended.flushes)) == ({"total": 1, "target": 1}, 0, 2)
    assert vods.target() == {"a": 105, "b": 105}
    assert run(vods, reports, exclusive=True).found == NOTHING
    undone(vods, mended.flushes[1])
    assert vods.target() == {"a": 7, "b": 105}
    with pytest.raises(CannotUndo, match="undone already"):
        undone(vods, mended.flushes[1])
    assert vods.parked() == vods.counters() == {}


def test_rows_that_refuse_or_are_locked_stay(vods: TargetWorld, reports: Path) -> None:
    """The others beside them are mended."""
    take_baseline(vods)
    vods.add_vods("c", "d")
    for vod_id in ("a", "b", "c", "d"):
        vods.send(vod_id, 5)
    vods.flush()
    vods.execute("""UPDATE public."Vod" SET "viewCount" = "viewCount" - 1""")
    vods.execute("""ALTER TABLE public."Vod" ADD CHECK (id <> 'b' OR "viewCount" < 105)""")
    with vods.stores.ledger.connect() as editor, editor.transaction():
        editor.execute("""SELECT FROM public."Vod" WHERE id = 'c' FOR UPDATE""")
        found = run(vods, reports, exclusive=True, repair=True)
    assert (kinds(found), found.mended["target"]) == ({"target": 4}, 2)
    assert vods.target() == {"a": 105, "b": 104, "c": 4, "d": 5}


def test_ids_of_another_type(stores: Stores, reports: Path) -> None:
    """Spellings of one id make up one row: their totals are added up, whichever of them has the baseline."""
    world = TargetWorld(stores, TargetNames.parse("vods", "id", "views"))
    world.execute("CREATE TABLE vods (id integer PRIMARY KEY, views integer)")
    world.execute("INSERT INTO vods VALUES (7, 100), (8, NULL), (9, 40)")
    for vod_id, views in {"7": 1, "007": 2, "+7": 4, "8": 5, "none": 6}.items():
        world.send(vod_id, views)
    world.flush()
    take_baseline(world)
    assert world.rows("SELECT vod_id, view_count, baseline FROM viewer.vod_view_counts ORDER BY 1") == [
        ("+7", 4, 0),
        ("007", 2, 0),
        ("7", 101, 100),
        ("8", 5, 0),
        ("9", 40, 40),
    ]
    assert run(world, reports, exclusive=True).found == NOTHING
    world.execute("UPDATE vods SET views = views + 1")
    assert run(world, reports, exclusive=True, repair=True).mended["target"] == 3
    assert world.target() == {"7": 107, "8": 5, "9": 40}


def test_parked_views_whose_row_is_there(vods: TargetWorld, reports: Path) -> None:
    """Are reported, and counted where told to."""
    vods.send("late", 5)
    vods.flush()
    assert run(vods, reports).found == NOTHING
    vods.add_vods("late")
    assert kinds(run(vods, reports)) == {"parked": 1}
    assert run(vods, reports, repair=True).mended["parked"] == 1
    assert run(vods, reports).found == NOTHING
    assert vods.totals() == {"late": 5}
    assert vods.target()["late"] == 5


# --- while others are at it -------------------------------------------------------------------------------------------


class Hammer:
    """Sends and flushes on a thread until told to stop."""

    def __init__(self, world: World, vods: int = 30) -> None:
        self.world = world
        self._vods, self._stop, self._pool = vods, Event(), ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._going = self._pool.submit(self._go)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._going.result()
        self._pool.shutdown()

    def _go(self) -> None:
        while not self._stop.is_set():
            self.world.send_many(self._vods, 1)
            self.world.flush()


def test_no_difference_is_made_up_while_flushes_run(vods: TargetWorld, reports: Path) -> None:
    """Report finds nothing, repair changes nothing; VODs that are there, and some that are parked."""
    vods.add_vods(*(f"vod{number:04d}" for number in range(20)))
    take_baseline(vods)
    with Hammer(vods):
        for repair in (False, True) * 10:
            found = run(vods, reports, exclusive=True, repair=repair)
            assert (found.found, found.flushes) == (NOTHING, [])
    assert len(vods.seqs()) > 10
    vods.assert_conserved()


def test_a_flush_within_a_comparison_is_for_later(world: World, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What commits between two of its statements is in none of them: not in the moment, not in the history."""
    flushed(world)
    set_total(world, "vod0001", 5)
    read = totals._unnamed

    def and_then_flush(connection: psycopg.Connection) -> int:
        flushed(world, views=10)
        return read(connection)

    with monkeypatch.context() as patch:
        patch.setattr(totals, "_unnamed", and_then_flush)
        assert run(world, reports, repair=True).mended["total"] == 1
    world.assert_all_persisted()
    assert run(world, reports).found == NOTHING


def test_two_repairs_at_once_mend_once(world: World, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that have read the same, one commits; the other reads again, and finds nothing left to mend."""
    flushed(world)
    set_total(world, "vod0001", 5)
    plan, others = mend._TotalsPlan.__call__, list[Reconciled]()

    def and_then_another(self: Any) -> dict[str, int]:
        found = plan(self)
        if not others:
            monkeypatch.undo()
            others.append(run(world, reports, repair=True))
        return found

    monkeypatch.setattr(mend._TotalsPlan, "__call__", and_then_another)
    assert (run(world, reports, repair=True).flushes, len(others[0].flushes)) == ([], 1)
    world.assert_all_persisted()


def test_differences_are_mended_while_flushes_run(vods: TargetWorld, reports: Path) -> None:
    """To the last view, whatever is flushed between reading and mending."""
    vods.add_vods(*(f"vod{number:04d}" for number in range(20)))
    take_baseline(vods)
    flushed(vods, 20)
    with Hammer(vods):
        for number in range(10):
            vods.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 7 WHERE vod_id < 'vod0005'")
            if number % 2:
                vods.execute("""UPDATE public."Vod" SET "viewCount" = "viewCount" + 9 WHERE id > 'vod0010'""")
            while run(vods, reports, exclusive=True, repair=True).remaining:
                pass
    assert run(vods, reports, exclusive=True).found == NOTHING
    vods.assert_conserved()
    assert {vod_id: vods.target()[vod_id] for vod_id in vods.totals()} == dict(
        vods.rows("SELECT vod_id, view_count FROM viewer.vod_view_counts")
    )
