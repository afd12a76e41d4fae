"""Reconciliation: every kind of difference is reported, repaired on request, and never invented while flushes run."""

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
from viewer_pipeline.flush.incidents import open_incidents
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.run_metrics import flushes_since
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.history.baseline import take_baseline_from_target
from viewer_pipeline.reconcile import compare_totals_with_history, repair
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.difference_csv import MAX_REPORTS
from viewer_pipeline.reconcile.reconciliation import CHECKS, ReconcileRequest, ReconcileResult, reconcile
from viewer_pipeline.reconcile.undo import undo_adjustment
from viewer_pipeline.stores.named_queries import fetch_one
from viewer_pipeline.target.parked_views import discard_parked, prune_parked
from viewer_pipeline.target.table import TargetNames
from viewer_pipeline_tests.support.ledger_world import History
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.world import PREFIX, World

NO_DIFFERENCES = {"total": 0, "pruned": 0, "held": 0, "target": 0, "marker": 0, "counter": 0, "parked": 0}


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """The directory for reports."""
    return tmp_path / "reports"


def run(world: World, reports: Path, **options: Any) -> ReconcileResult:
    """Reconcile once, in batches of two."""
    return reconcile(world.stores, ReconcileRequest(uuid4().hex, reports, batch_size=2, **options))


def undo_flush(world: World, seq: int) -> int:
    """Undo a flush; return the number of the flush that undid it."""
    ledger = world.stores.ledger
    with ledger.connect() as connection:
        return undo_adjustment(Adjuster(world.stores, connection, "undo", 2), ledger.target(connection), seq).seq


def kinds(result: ReconcileResult) -> dict[str, int]:
    """Return the number of differences of each kind that has any."""
    return {kind: count for kind, count in result.differences.items() if count}


def send_and_flush(world: World, vods: int = 10, views: int = 3) -> None:
    """Send views of some VODs and flush them."""
    world.send_many(vods, views)
    world.flush()


def set_total(world: World, vod_id: str, count: int) -> None:
    """Falsify a total."""
    world.execute("UPDATE viewer.vod_view_counts SET view_count = %s WHERE vod_id = %s", count, vod_id)


def test_reconcile_without_differences(world: World, reports: Path) -> None:
    """An empty database and one with flushes have no differences; the report has a header nevertheless."""
    assert run(world, reports).differences == NO_DIFFERENCES
    send_and_flush(world)
    result = run(world, reports)
    assert (result.differences, result.first_differences, result.flushes, result.vods) == (NO_DIFFERENCES, [], [], 10)
    assert result.report.read_text().splitlines() == ["kind,subject,expected,actual,message,repairable,repair_input"]
    assert [check.name for check in result.checks() if check.passed] == list(CHECKS)


def test_reconcile_prunes_old_reports(world: World, reports: Path) -> None:
    """The newest 30 are kept, unfinished ones of killed runs are deleted after a day, other files are left alone."""
    reports.mkdir()
    old = [reports / f"reconcile-20260101T0000{number:02d}Z-{number:08x}.csv" for number in range(MAX_REPORTS + 3)]
    unfinished, killed, other = (
        reports / name for name in ("reconcile-1.csv.partial", "reconcile-2.csv.partial", "a.csv")
    )
    for path in (*old, unfinished, killed, other):
        path.touch()
    os.utime(killed, (1, 1))
    newest = [run(world, reports).report for _ in range(2)]
    assert {path.name for path in reports.iterdir()} == {path.name for path in (*old[5:], *newest, unfinished, other)}


def test_repair_corrects_totals(world: World, reports: Path) -> None:
    """Totals that are too high, too low, missing, or of a VOD without history: reported first, then corrected."""
    send_and_flush(world)
    set_total(world, "vod0001", 5)
    set_total(world, "vod0002", 1)
    world.execute("DELETE FROM viewer.vod_view_counts WHERE vod_id = 'vod0003'")
    world.execute("INSERT INTO viewer.vod_view_counts VALUES ('made, \"up\"\r\n', 12, 5, 0, now())")
    before = world.totals()
    result = run(world, reports)
    assert kinds(result) == {"total": 4}
    assert result.remaining == 4
    counts = {row.subject: (row.expected, row.actual) for row in result.first_differences}
    assert counts == {"vod0001": (3, 5), "vod0002": (3, 1), "vod0003": (3, None), 'made, "up"\r\n': (5, 12)}
    assert [check.name for check in result.checks() if not check.passed] == ["totals_equal_history"]
    with result.report.open(newline="") as file:
        assert {row["subject"]: row["expected"] for row in csv.DictReader(file)} == {
            vod_id: str(expected) for vod_id, (expected, _) in counts.items()
        }
    assert (world.totals(), world.rows("SELECT mode FROM viewer.flush WHERE mode LIKE 'reconcile%'")) == (before, [])
    repaired = run(world, reports, repair=True)
    assert (repaired.repaired["total"], repaired.remaining) == (4, 0)
    assert run(world, reports).differences == NO_DIFFERENCES
    assert world.totals() == {**world.sent, 'made, "up"\r\n': 0}


def test_undo_reverts_a_repair_once(world: World, reports: Path) -> None:
    """A repair is a flush of the ledger; its undo is another one, which can be undone as well."""
    send_and_flush(world)
    set_total(world, "vod0001", 5)
    set_total(world, "vod0002", 1)
    (seq,) = run(world, reports, repair=True).flushes
    batches = "SELECT vod_ids, deltas FROM viewer.flush_batch WHERE seq = "
    assert world.rows(f"{batches}{seq}") == [(["vod0001", "vod0002"], [-2, 2])]
    again = undo_flush(world, seq)
    assert world.rows(f"{batches}{again}") == [(["vod0001", "vod0002"], [2, -2])]
    assert (world.totals()["vod0001"], world.totals()["vod0002"]) == (5, 1)
    with pytest.raises(CannotUndo, match=f"flush {seq} was undone already"):
        undo_flush(world, seq)
    undo_flush(world, again)
    assert run(world, reports).differences == NO_DIFFERENCES
    for other, message in ((1, "counted views"), (999, "no flush 999")):
        with pytest.raises(CannotUndo, match=message):
            undo_flush(world, other)
    world.execute("DELETE FROM viewer.vod_view_counts WHERE vod_id = 'vod0001'")
    with pytest.raises(CannotUndo, match="'vod0001' has no count"):
        undo_flush(world, again + 1)


def test_settling_does_not_subtract_repairs_from_redis(world: World, reports: Path) -> None:
    """Pending views stay in Redis, and metrics do not count a repair as a flush."""
    send_and_flush(world)
    set_total(world, "vod0001", 1)
    world.send("vod0001", 7)
    assert run(world, reports, repair=True).remaining == 0
    assert world.counters() == {"vod0001": 7}
    world.flush()
    world.assert_all_persisted()
    with world.stores.ledger.connect() as connection:
        assert {row.mode for row in flushes_since(connection, "{}", "{[0,100]}")} == {"sweep"}


def test_next_flush_settles_an_unsettled_repair(world: World, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run settles the flush before the repair by subtracting it, and the repair without subtracting."""
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
    assert (done.notes.settled_before, done.notes.skipped_views, done.notes.drift) == (2, 0, 0)
    assert [check for check in verify(world.stores, done) if not check.passed] == []
    assert run(world, reports).differences == NO_DIFFERENCES


def test_reconcile_reports_a_wrong_marker(world: World, reports: Path) -> None:
    """A marker that is missing, ahead of the ledger, or left behind is reported and not repaired."""
    send_and_flush(world)
    world.client.hset("viewer:settled", "flush", 99)
    assert "rolled back" in run(world, reports, repair=True).first_differences[0].message
    world.client.hset("viewer:settled", mapping={"flush": 1, "flush_id": ""})
    world.execute("UPDATE viewer.flush SET committed_at = now() - interval '2 minutes'")
    result = run(world, reports, repair=True)
    assert (kinds(result), result.remaining) == ({"marker": 1}, 1)
    assert "not settled" in result.first_differences[0].message
    world.client.delete("viewer:settled")
    assert "no marker" in run(world, reports, repair=True).first_differences[0].message
    assert world.marker() is None


def test_repair_after_a_rollback_records_the_incident(world: World, reports: Path) -> None:
    """The repair's flush passes the marker, so no later run could detect that PostgreSQL was rolled back."""
    for _ in range(2):
        send_and_flush(world, 2)
    world.execute("DELETE FROM viewer.flush_batch WHERE seq > 1")
    world.execute("DELETE FROM viewer.flush WHERE seq > 1")
    done = run(world, reports, repair=True)
    assert done.flushes == [3]
    with world.stores.ledger.connect() as connection:
        assert [incident.kind for incident in open_incidents(connection)] == ["postgres_rolled_back"]
    marker = world.stores.redis.marker()
    assert marker is not None
    assert (marker.seq, marker.missing_flushes) == (3, (1, 2))


def test_reconcile_reports_invalid_counters(world: World, reports: Path) -> None:
    """Invalid values and types are reported with the reason, and left unchanged."""
    world.send("good", 3)
    world.client.set(PREFIX + "text", "abc")
    world.client.lpush(PREFIX + "list", "1")
    result = run(world, reports, repair=True)
    assert (kinds(result), result.remaining) == ({"counter": 2}, 2)
    assert {row.subject: row.message for row in result.first_differences} == {
        "text": "value is not an integer: 'abc'",
        "list": "key is a list, not a string",
    }
    assert world.client.get(PREFIX + "text") == b"abc"


def test_history_includes_pruned_days(world: World, reports: Path) -> None:
    """Views of pruned days come from daily_views; days that the ledger still holds are not counted twice."""
    send_and_flush(world)
    world.execute("UPDATE viewer.flush SET taken_at = '2026-01-01 23:59:59.9+00'")
    send_and_flush(world, views=4)
    world.execute("UPDATE viewer.flush SET taken_at = '2026-01-02 00:00:00+00' WHERE taken_at > '2026-01-02'")
    History(world).roll_up(date(2026, 1, 1), date(2026, 1, 3))
    assert run(world, reports).differences == NO_DIFFERENCES
    History(world).keep_ledger_from(date(2026, 1, 2))
    assert run(world, reports).differences == NO_DIFFERENCES
    world.execute(
        "DELETE FROM viewer.flush_batch WHERE seq IN (SELECT seq FROM viewer.flush WHERE taken_at < '2026-01-02')"
    )
    world.execute("DELETE FROM viewer.flush WHERE taken_at < '2026-01-02'")
    set_total(world, "vod0001", 1)
    assert run(world, reports, repair=True).repaired["total"] == 1
    assert run(world, reports).differences == NO_DIFFERENCES
    world.assert_all_persisted()


# --- pruned and discarded views -------------------------------------------------------------------------------------


@pytest.fixture
def vods(stores: Stores) -> TargetWorld:
    """Streamix's tables, with two VODs that have views from before."""
    world = TargetWorld(stores)
    world.make_streamix()
    world.add_vods("a", "b", count=100)
    return world


def take_baseline(world: TargetWorld) -> None:
    """Take the current counts of the target as the baseline."""
    with world.stores.ledger.connect() as connection:
        take_baseline_from_target(connection, world.stores.ledger, again=True)


def remove_parked(world: TargetWorld, *vod_ids: str, by_hand: bool) -> None:
    """Discard the parked views of these VODs by hand, or prune them by age."""
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
def test_discarded_and_pruned_views_are_no_difference(vods: TargetWorld, reports: Path, *, by_hand: bool) -> None:
    """Nothing differs and nothing is repaired; also for VODs whose row came later, or that were parked again."""
    for vod_id in ("a", "b", "ghost", "late", "again"):
        vods.send(vod_id, 5)
    vods.flush()
    remove_parked(vods, "ghost", "late", "again", by_hand=by_hand)
    vods.add_vods("late")
    for vod_id in ("a", "late", "again"):
        vods.send(vod_id, 2)
    vods.flush()
    assert vods.parked() == {"again": 2}
    result = run(vods, reports, repair=True)
    assert (result.differences, result.flushes) == (NO_DIFFERENCES, [])
    set_total(vods, "a", 9)
    assert kinds(run(vods, reports, repair=True)) == {"total": 1}
    assert vods.totals() == {"a": 7, "b": 5, "late": 2}


def test_repair_leaves_totals_that_pruning_may_explain(vods: TargetWorld, reports: Path) -> None:
    """A total that is too low or missing is reported and left alone; one that is too high is repaired."""
    for vod_id in ("a", "b", "ghost", "late"):
        vods.send(vod_id, 5)
    vods.flush()
    remove_parked(vods, "ghost", "late", by_hand=False)
    vods.add_vods("late")
    vods.send("late", 2)
    vods.flush()
    set_total(vods, "a", 9)
    set_total(vods, "b", 3)
    result = run(vods, reports, repair=True)
    assert (kinds(result), result.repaired["total"]) == ({"total": 3, "pruned": 1}, 1)
    assert {row.subject: row.repairable for row in result.first_differences} == {
        "a": True,
        "b": False,
        "late": False,
        "": False,
    }
    assert [(row.expected, row.actual) for row in result.first_differences if row.kind == "pruned"] == [(10, 12)]
    assert vods.totals() == {"a": 5, "b": 3, "late": 2}


def test_repair_leaves_differences_that_no_total_explains(vods: TargetWorld, reports: Path) -> None:
    """If more views are parked than were ever sent, the difference is reported and left alone."""
    vods.send("ghost", 5)
    vods.send("a", 5)
    vods.flush()
    vods.execute("""DELETE FROM public."Vod" WHERE id = 'a'""")
    vods.execute("UPDATE viewer.parked SET views = 50")
    vods.execute("INSERT INTO viewer.parked SELECT 'a', 500, reason, 0, now(), now() FROM viewer.parked")
    result = run(vods, reports, repair=True)
    assert (kinds(result), result.remaining, result.flushes) == ({"total": 2}, 2, [])
    assert all("no total explains that" in row.message for row in result.first_differences)


# --- the user's table -----------------------------------------------------------------------------------------------


def test_target_is_skipped_unless_exclusive_and_with_baseline(vods: TargetWorld, reports: Path) -> None:
    """Without TARGET_EXCLUSIVE or without a baseline, the notes and the check give the reason."""
    vods.send("a", 5)
    vods.flush()
    assert "TARGET_EXCLUSIVE is not true" in run(vods, reports).notes[0]
    without = run(vods, reports, exclusive=True, repair=True)
    assert "no baseline was taken" in without.notes[0]
    messages = {check.name: check.message for check in without.checks()}
    assert messages["target_equals_totals"].startswith("not compared: no baseline was taken")
    assert vods.target() == {"a": 105, "b": 100}
    take_baseline(vods)
    result = run(vods, reports, exclusive=True)
    assert (result.differences, result.notes) == (NO_DIFFERENCES, [])


def test_repair_and_undo_of_the_target(vods: TargetWorld, reports: Path) -> None:
    """Totals are repaired first, then the target; each in a flush of its own that can be undone."""
    take_baseline(vods)
    for vod_id in ("a", "b"):
        vods.send(vod_id, 5)
    vods.flush()
    vods.execute("""UPDATE public."Vod" SET "viewCount" = 7 WHERE id = 'a'""")
    set_total(vods, "b", 8)
    result = run(vods, reports, exclusive=True)
    assert {(row.kind, row.subject, row.expected, row.actual) for row in result.first_differences} == {
        ("total", "b", 105, 8),
        ("target", "a", 105, 7),
        ("target", "b", 8, 105),
    }
    repaired = run(vods, reports, exclusive=True, repair=True)
    assert (kinds(repaired), repaired.remaining, len(repaired.flushes)) == ({"total": 1, "target": 1}, 0, 2)
    assert vods.target() == {"a": 105, "b": 105}
    assert run(vods, reports, exclusive=True).differences == NO_DIFFERENCES
    undo_flush(vods, repaired.flushes[1])
    assert vods.target() == {"a": 7, "b": 105}
    with pytest.raises(CannotUndo, match="undone already"):
        undo_flush(vods, repaired.flushes[1])
    assert vods.parked() == vods.counters() == {}


def test_repair_skips_locked_and_refused_rows(vods: TargetWorld, reports: Path) -> None:
    """The other rows of the same batch are repaired."""
    take_baseline(vods)
    vods.add_vods("c", "d")
    for vod_id in ("a", "b", "c", "d"):
        vods.send(vod_id, 5)
    vods.flush()
    vods.execute("""UPDATE public."Vod" SET "viewCount" = "viewCount" - 1""")
    vods.execute("""ALTER TABLE public."Vod" ADD CHECK (id <> 'b' OR "viewCount" < 105)""")
    with vods.stores.ledger.connect() as editor, editor.transaction():
        editor.execute("""SELECT FROM public."Vod" WHERE id = 'c' FOR UPDATE""")
        result = run(vods, reports, exclusive=True, repair=True)
    assert (kinds(result), result.repaired["target"]) == ({"target": 4}, 2)
    assert vods.target() == {"a": 105, "b": 104, "c": 4, "d": 5}


def test_target_with_ids_of_another_type(stores: Stores, reports: Path) -> None:
    """Several spellings of one id share a row: their totals are summed, whichever of them has the baseline."""
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
    assert run(world, reports, exclusive=True).differences == NO_DIFFERENCES
    world.execute("UPDATE vods SET views = views + 1")
    assert run(world, reports, exclusive=True, repair=True).repaired["target"] == 3
    assert world.target() == {"7": 107, "8": 5, "9": 40}


def test_repair_counts_parked_views_whose_row_exists(vods: TargetWorld, reports: Path) -> None:
    """Without `repair` they are reported only."""
    vods.send("late", 5)
    vods.flush()
    assert run(vods, reports).differences == NO_DIFFERENCES
    vods.add_vods("late")
    assert kinds(run(vods, reports)) == {"parked": 1}
    assert run(vods, reports, repair=True).repaired["parked"] == 1
    assert run(vods, reports).differences == NO_DIFFERENCES
    assert vods.totals() == {"late": 5}
    assert vods.target()["late"] == 5


# --- concurrency ----------------------------------------------------------------------------------------------------


class BackgroundFlushes:
    """Sends and flushes on a thread until the context ends."""

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


def test_reconcile_reports_nothing_while_flushes_run(vods: TargetWorld, reports: Path) -> None:
    """Neither a comparison nor a repair takes concurrent flushes for differences; parked views included."""
    vods.add_vods(*(f"vod{number:04d}" for number in range(20)))
    take_baseline(vods)
    with BackgroundFlushes(vods):
        for repair in (False, True) * 10:
            result = run(vods, reports, exclusive=True, repair=repair)
            assert (result.differences, result.flushes) == (NO_DIFFERENCES, [])
    assert len(vods.seqs()) > 10
    vods.assert_conserved()


def test_comparison_reads_one_snapshot(world: World, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that commits between two statements of a comparison is visible to none of them."""
    send_and_flush(world)
    set_total(world, "vod0001", 5)

    def flush_and_read(connection: psycopg.Connection, query: str) -> Any:
        send_and_flush(world, views=10)
        return fetch_one(connection, query)

    with monkeypatch.context() as patch:
        patch.setattr(compare_totals_with_history, "fetch_one", flush_and_read)
        assert run(world, reports, repair=True).repaired["total"] == 1
    world.assert_all_persisted()
    assert run(world, reports).differences == NO_DIFFERENCES


def test_concurrent_repairs_commit_once(world: World, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two repairs that have read the same rows, one commits; the other reads again and has nothing to repair."""
    send_and_flush(world)
    set_total(world, "vod0001", 5)
    plan, others = repair._TotalsPlan.__call__, list[ReconcileResult]()

    def plan_and_repair(self: Any) -> dict[str, int]:
        deltas = plan(self)
        if not others:
            monkeypatch.undo()
            others.append(run(world, reports, repair=True))
        return deltas

    monkeypatch.setattr(repair._TotalsPlan, "__call__", plan_and_repair)
    assert (run(world, reports, repair=True).flushes, len(others[0].flushes)) == ([], 1)
    world.assert_all_persisted()


def test_repair_is_exact_while_flushes_run(vods: TargetWorld, reports: Path) -> None:
    """Every repair is exact, whatever is flushed between reading and committing."""
    vods.add_vods(*(f"vod{number:04d}" for number in range(20)))
    take_baseline(vods)
    send_and_flush(vods, 20)
    with BackgroundFlushes(vods):
        for number in range(10):
            vods.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 7 WHERE vod_id < 'vod0005'")
            if number % 2:
                vods.execute("""UPDATE public."Vod" SET "viewCount" = "viewCount" + 9 WHERE id > 'vod0010'""")
            while run(vods, reports, exclusive=True, repair=True).remaining:
                pass
    assert run(vods, reports, exclusive=True).differences == NO_DIFFERENCES
    vods.assert_conserved()
    assert {vod_id: vods.target()[vod_id] for vod_id in vods.totals()} == dict(
        vods.rows("SELECT vod_id, view_count FROM viewer.vod_view_counts")
    )
