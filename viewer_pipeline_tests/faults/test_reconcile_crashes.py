"""A repair that is killed after every call that it makes to a server, and before the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.reconcile import repair as repair_module
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, ReconcileResult, reconcile
from viewer_pipeline_tests.support.calls import Killer, Recorder, Watcher, client_of_threads, in_child, watching
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.world import PREFIX, ConnectedWorld

VODS = ("a", "b")
PARTS = 2  # a test kills at every second point


class OpenWorld(ConnectedWorld, TargetWorld):
    """Streamix's tables over one connection: opening a thousand connections would take most of the time."""


def repair(stores: Stores, reports: Path) -> ReconcileResult:
    """Reconcile with repair, on connections of its own, in batches of one VOD."""
    with (
        client_of_threads(stores.redis.url) as client,
        Ledger(stores.ledger.url, stores.ledger.target_names).keeping_connections() as ledger,
    ):
        own = Stores(RedisStore(client, stores.redis.url, PREFIX), ledger)
        return reconcile(own, ReconcileRequest(uuid4().hex, reports, repair=True, exclusive=True, batch_size=1))


def repair_in_child(watcher: Watcher, stores: Stores, reports: Path) -> Callable[[], None]:
    """Return the function for a child process: a repair under this watcher."""

    def repair_watched() -> None:
        with watching(watcher):
            repair(stores, reports)

    return repair_watched


def spoil(vods: TargetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave wrong totals, wrong counts in the target, parked views that can be counted, and an unsettled flush."""
    vods.client.flushall()
    for table in ("flush", "flush_batch", "vod_view_counts", "parked"):  # of so few rows quicker than TRUNCATE
        vods.execute(f"DELETE FROM viewer.{table}")
    vods.execute("""UPDATE public."Vod" SET "viewCount" = 0""")
    vods.execute("""DELETE FROM public."Vod" WHERE id = 'late'""")
    vods.sent.clear()
    for vod_id in (*VODS, "late"):
        vods.send(vod_id, 5)
    vods.flush()
    vods.add_vods("late")
    with monkeypatch.context() as patch:
        patch.setattr(Settler, "add", lambda *_: None)
        vods.send("a", 1)
        vods.flush("ids", vod_ids=("a",))
    vods.send("a", 2)
    vods.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 7 WHERE vod_id IN ('a', 'b')")
    vods.execute("""UPDATE public."Vod" SET "viewCount" = "viewCount" - 3 WHERE id = 'b'""")


def repaired_views(vods: TargetWorld) -> dict[tuple[str, str], int]:
    """Return the views that repairs have added according to the ledger, by mode and VOD."""
    rows = vods.rows(
        "SELECT mode, vod_id, sum(delta) FROM viewer.flush JOIN viewer.flush_batch USING (seq),"
        " unnest(vod_ids, deltas) AS c (vod_id, delta) WHERE mode LIKE 'reconcile%' GROUP BY mode, vod_id"
    )
    return {(mode, vod_id): int(added) for mode, vod_id, added in rows}


@pytest.mark.parametrize("part", range(PARTS))
def test_repair_killed_at_every_call(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """The next repair and the next flush complete the work: no view is lost, counted twice or subtracted from Redis.

    The ledger records each repaired difference once.
    """
    monkeypatch.setattr(repair_module, "BATCH_ROWS", 1)
    with OpenWorld(stores) as vods:
        vods.make_streamix()
        vods.add_vods(*VODS)
        vods.execute("INSERT INTO viewer.baseline_taken (source, vods, views) VALUES ('test', 0, 0)")
        spoil(vods, monkeypatch)
        recorder = Recorder()
        with watching(recorder):
            repair(vods.stores, tmp_path)
        points = [point for point in recorder.points() if point.role == "main"]
        assert len(points) > 100
        for point in points[part::PARTS]:
            spoil(vods, monkeypatch)
            killed = in_child(repair_in_child(Killer(point), vods.stores, tmp_path), tmp_path / "report")
            assert killed == -9, point
            assert repair(vods.stores, tmp_path).remaining == 0, point
            vods.flush()
            assert vods.totals() == vods.target() == dict(vods.sent), point
            assert vods.counters() == vods.parked() == {}, point
            assert repaired_views(vods) == {
                ("reconcile", "a"): -7,
                ("reconcile", "b"): -7,
                ("reconcile_target", "b"): 3,
            }, point
            again = repair(vods.stores, tmp_path)
            assert (sum(again.differences.values()), again.flushes) == (0, []), point
