"""Daily views, retention and reconciliation, one after the other: what one drops the other must not miss."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.history.pruning import prune_ledger
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, reconcile
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.world import World

PLENTY = 60.0  # seconds


def differences(world: World, reports: Path) -> dict[str, int]:
    """Return how many differences a reconciliation finds, by kind; not of the marker, which no run has made here."""
    result = reconcile(world.stores, ReconcileRequest(run_id="test", reports=reports))
    return {kind: count for kind, count in result.differences.items() if count and kind != "marker"}


def test_what_retention_drops_is_no_difference(world: World, tmp_path: Path) -> None:
    """Also of a flush that came when its day was final already, and of the newest one, which is never dropped."""
    history, today = History(world), datetime.now(UTC).date()
    for ago in (40, 39, 2):
        history.flush(at(today - ONE * ago), {"a": ago, "b": 1})
    history.roll_up(today - ONE * 50, today)
    with world.stores.ledger.connect() as connection:
        done = prune_ledger(connection, today - ONE * 30, Marker(3, 1, 1), PLENTY, history.zone)
    assert done.flushes == 2
    assert differences(world, tmp_path) == {}
    history.flush(at(today - ONE * 40), {"a": 7, "late": 7})
    with world.stores.ledger.connect() as connection:
        prune_ledger(connection, today - ONE * 30, Marker(4, 1, 1), PLENTY, history.zone)
    assert world.totals() == {"a": 88, "b": 3, "late": 7}
    assert differences(world, tmp_path) == {}
    world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 1 WHERE vod_id = 'a'")
    assert list(differences(world, tmp_path).values()) == [1]
