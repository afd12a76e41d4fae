"""Days and metrics of a pipeline with several streams: each flush counts once, also one that comes late."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.retention_position import read_retention_position
from viewer_pipeline.history.pruning import plan_ledger_pruning, prune_ledger
from viewer_pipeline.monitoring.ledger_totals import LedgerTotalsReader
from viewer_pipeline_tests.support.ledger_world import ONE, UTC_DAYS, History, at
from viewer_pipeline_tests.support.streams import cut
from viewer_pipeline_tests.support.world import World

MARCH = date(2026, 3, 1)
VODS = 20


def flush_on(world: World, day: date, *parts: int) -> None:
    """Flush these streams, as if their counters had been read on this day."""
    for part in parts:
        stream = world.stores.of_each_stream()[part]
        snapshot = replace(drain(stream, world.request()), taken_at=at(day))
        bulk_upsert(stream, snapshot, aggregate(snapshot.readings))


def views_of_day(history: History, day: date) -> int:
    """Return the rolled up views of a day."""
    return sum(views for (of_day, _), views in history.daily().items() if of_day == day)


def test_a_late_flush_of_one_stream(world: World) -> None:
    """Its day is rolled up again, with each flush of both streams once; until then the ledger keeps it."""
    history = History(world)
    cut(world, 2)
    world.send_many(VODS, 3)
    flush_on(world, MARCH, 0, 1)
    history.roll_up(MARCH, MARCH + ONE)
    assert views_of_day(history, MARCH) == VODS * 3
    world.send_many(VODS, 1)
    flush_on(world, MARCH + ONE, 1)  # the other stream is a day behind
    flush_on(world, MARCH, 0)
    history.roll_up(MARCH + ONE, MARCH + ONE * 2)
    with world.stores.ledger.connect() as connection:
        markers = read_retention_position(world.stores, connection).markers
        plan = plan_ledger_pruning(connection, MARCH + ONE * 2, markers, UTC_DAYS)
        assert (plan.days, "came after its rollup" in plan.stop_reason) == ([], True)
    history.roll_up(MARCH, MARCH + ONE * 2)
    assert views_of_day(history, MARCH) + views_of_day(history, MARCH + ONE) == VODS * 4
    assert views_of_day(history, MARCH) > VODS * 3
    daily = history.daily()
    history.roll_up(MARCH, MARCH + ONE * 2)
    assert history.daily() == daily
    with world.stores.ledger.connect() as connection:
        assert prune_ledger(connection, MARCH + ONE * 2, markers, 60, UTC_DAYS).flushes > 0
    assert history.daily() == daily


def test_metrics_count_each_flush_once(world: World) -> None:
    """A reader that has read the second stream still reads what the first one commits later."""
    cut(world, 2)
    reader = LedgerTotalsReader(world.stores.ledger)
    world.send_many(VODS, 2)
    flush_on(world, MARCH, 1)
    assert reader.read().totals.views.total() < VODS * 2
    flush_on(world, MARCH, 0)
    assert reader.read().totals.views.total() == VODS * 2
    assert reader.read().totals.flushes.total() == len(world.seqs())
    cut(world, 3)
    world.send_many(VODS, 1)
    flush_on(world, MARCH, 2, 0, 1)
    assert reader.read().totals.views.total() == VODS * 3
    assert LedgerTotalsReader(world.stores.ledger).read().totals.views.total() == VODS * 3
