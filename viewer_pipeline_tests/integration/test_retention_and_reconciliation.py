"""Daily views, retention and reconciliation, one after the other: what one drops the other must not miss."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.history.pruning import prune_ledger
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, reconcile
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.world import World

PAGE = Path(__file__).parents[2] / "docs/how-to/retention.md"
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
        done = prune_ledger(connection, today - ONE * 30, [Marker(3, 1, 1)], PLENTY, history.zone)
    assert done.flushes == 2
    assert differences(world, tmp_path) == {}
    history.flush(at(today - ONE * 40), {"a": 7, "late": 7})
    with world.stores.ledger.connect() as connection:
        prune_ledger(connection, today - ONE * 30, [Marker(4, 1, 1)], PLENTY, history.zone)
    assert world.totals() == {"a": 88, "b": 3, "late": 7}
    assert differences(world, tmp_path) == {}
    world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 1 WHERE vod_id = 'a'")
    assert list(differences(world, tmp_path).values()) == [1]


def test_the_documented_pruning_of_daily_views(world: World, tmp_path: Path) -> None:
    """It deletes old final days and no others; totals stay, and a reconciliation still finds what somebody changed."""
    (statement,) = re.findall(r"```sql\n(WITH deleted.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    history, today = History(world), datetime.now(UTC).date()
    for ago in (800, 750, 700, 2):
        history.flush(at(today - ONE * ago), {"a": ago, "b": 1, "parked": 3})
    history.roll_up(today - ONE * 900, today)
    world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count - 5 WHERE vod_id = 'parked'")
    world.execute(
        "INSERT INTO viewer.parked (vod_id, views, reason, last_flush, updated_at)"
        " VALUES ('parked', 5, 'test', 1, now())"
    )
    query = "SELECT vod_id, view_count FROM viewer.vod_view_counts"
    totals = dict(world.rows(query))
    assert totals == {"a": 2252, "b": 4, "parked": 7}

    def ages(vod_id: str) -> list[int]:
        rows = world.rows(f"SELECT day FROM viewer.daily_views WHERE vod_id = '{vod_id}' ORDER BY day")
        return [(today - day).days for (day,) in rows]

    assert differences(world, tmp_path) == {}
    world.execute(statement)
    assert ages("a") == [800, 750, 700, 2]  # the ledger of all days is kept
    with world.stores.ledger.connect() as connection:
        assert prune_ledger(connection, today - ONE * 30, [Marker(4, 1, 1)], PLENTY, history.zone).flushes == 3
    for _ in range(2):  # a second time deletes nothing
        world.execute(statement)
        assert ages("a") == ages("b") == [700, 2]
    assert ages("parked") == [800, 750, 700, 2]
    assert dict(world.rows(query)) == totals
    assert differences(world, tmp_path) == {}
    world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 1 WHERE vod_id = 'a'")
    assert list(differences(world, tmp_path).values()) == [1]
