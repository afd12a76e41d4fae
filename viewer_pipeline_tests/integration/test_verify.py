"""What the checks of a run compare, and what they find: batches, and totals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewer_pipeline.flush import ledger_reads
from viewer_pipeline.flush.ledger_reads import find_totals_behind_their_flush
from viewer_pipeline.flush.most_viewed import most_viewed_vods
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.verify import choose_separator, verify
from viewer_pipeline_tests.support.world import World

VOD_IDS = ("a", "b", "c\nd", "e")  # batches of two: one whose ids hold no newline, and one with such an id


def failing_batches(world: World, report: RunReport) -> Sequence[str]:
    """Return the rows that the check of the batches names."""
    (check,) = [check for check in verify(world.stores, report) if check.name == "ledger_equals_frame"]
    assert check.passed == (not check.failing_rows)
    return check.failing_rows


@pytest.mark.parametrize(
    ("change", "batches"),
    [
        ("SET deltas = '{1,3}' WHERE batch = 1", {1}),
        ("SET deltas = '{2,1}' WHERE batch = 1", {1}),
        ("SET deltas = '{12}' WHERE batch = 1", {1}),
        ("SET deltas = '{1,NULL}' WHERE batch = 1", {1}),
        ("SET deltas = deltas || NULL::bigint WHERE batch = 1", {1}),
        ("SET vod_ids = '{b,a}' WHERE batch = 1", {1}),
        ("SET vod_ids = '{a}' WHERE batch = 1", {1}),
        ("SET vod_ids = '{a,b,e}' WHERE batch = 1", {1}),
        ("SET vod_ids = '{a,a}' WHERE batch = 1", {1}),
        ("SET vod_ids = ARRAY['c', E'd\ne'] WHERE batch = 2", {2}),
        ("SET vod_ids = ARRAY[E'c\nd\ne'] WHERE batch = 2", {2}),
        ("SET vod_ids = (SELECT vod_ids FROM viewer.flush_batch WHERE batch = 2) WHERE batch = 1", {1}),
        ("SET batch = 3 WHERE batch = 2", {2, 3}),
        ("SET batch = 3 - batch + 10", {1, 2, 11, 12}),
        ("SET seq = 2 WHERE batch = 2", {2}),
    ],
)
def test_a_batch_that_differs_from_the_frame(world: World, change: str, batches: set[int]) -> None:
    """Whatever was cut or copied otherwise is named; without that, all is well, also if an id holds a newline."""
    for views, vod_id in enumerate(VOD_IDS, 1):
        world.send(vod_id, views)
    report = world.flush()
    assert failing_batches(world, report) == []
    world.execute("ALTER TABLE viewer.flush_batch DROP CONSTRAINT IF EXISTS flush_batch_seq_fkey")
    world.execute(f"UPDATE viewer.flush_batch {change}")
    assert {int(row.rpartition(" ")[2]) for row in failing_batches(world, report)} == batches


def test_a_batch_in_which_an_id_is_null(world: World) -> None:
    """It is named, although the other id looks like both ids of the frame."""
    world.send("a")
    world.send("b")
    report = world.flush()
    world.execute("UPDATE viewer.flush_batch SET vod_ids = ARRAY[E'a\nb', NULL]")
    assert len(failing_batches(world, report)) == 2


@given(
    st.lists(st.text("a\n", max_size=3), min_size=1, max_size=3),
    st.lists(st.text("a\n", max_size=3), min_size=1, max_size=3),
)
def test_joined_ids_are_the_same_only_if_the_ids_are(ids: list[str], others: list[str]) -> None:
    """The separator depends on the intended ids alone; as many other ids are never joined to the same text."""
    separator = choose_separator([ids, ["b"]])
    if len(ids) == len(others):
        assert (separator.join(ids) == separator.join(others)) == (ids == others)


def test_totals_behind_their_flush(world: World) -> None:
    """A missing or older total is named; a later one, or a parked row that carries the flush, is not."""
    for vod_id in ("a", "b", "c", "d", "e", "f", "g", "h"):
        world.send(vod_id)
    report = world.flush(batch_size=3)
    assert report.seqs == [1, 2]
    world.execute("DELETE FROM viewer.vod_view_counts WHERE vod_id IN ('a', 'c', 'f')")
    world.execute("UPDATE viewer.vod_view_counts SET last_flush = 0 WHERE vod_id IN ('b', 'h')")
    world.execute("UPDATE viewer.vod_view_counts SET last_flush = 9 WHERE vod_id = 'd'")
    world.execute(
        "INSERT INTO viewer.parked (vod_id, views, reason, last_flush, updated_at)"
        " SELECT id, 1, '', 1, now() FROM unnest('{c,f}'::text[]) AS id"
    )
    with world.stores.ledger.connect() as connection:
        behind = find_totals_behind_their_flush(connection, [1, 2])
        of_second = find_totals_behind_their_flush(connection, [2])
    assert sorted(behind) == [(1, "a", None), (1, "b", 0), (2, "f", None), (2, "h", 0)]
    assert sorted(of_second) == [(2, "f", None), (2, "h", 0)]


@pytest.mark.parametrize("analyze", [False, True])
@pytest.mark.parametrize("batches", [1, 300])
def test_totals_are_found_by_the_index(world: World, batches: int, *, analyze: bool) -> None:
    """One index scan for each batch, whatever PostgreSQL knows of the tables: no scan of all totals."""
    world.execute(
        "INSERT INTO viewer.vod_view_counts (vod_id, view_count, last_flush, updated_at)"
        " SELECT 'vod' || n, 1, 1, now() FROM generate_series(1, 30000) AS n"
    )
    world.execute(
        "INSERT INTO viewer.flush (seq, flush_id, run_id, mode, taken_at, counters, views, batches, epoch, format)"
        " VALUES (1, gen_random_uuid(), '', 'sweep', now(), 1, 1, %s, '', 2)",
        batches,
    )
    world.execute(
        "INSERT INTO viewer.flush_batch (seq, batch, vod_ids, deltas)"
        " SELECT 1, b, array_agg('vod' || b * 100 - n), array_agg(1)"
        " FROM generate_series(1, %s) AS b, generate_series(0, 99) AS n GROUP BY b",
        batches,
    )
    if analyze:
        world.execute("ANALYZE")
    with world.stores.ledger.connect() as connection:
        query = "EXPLAIN (ANALYZE, TIMING OFF) " + ledger_reads.SQL["find_totals_behind_their_flush"]
        plan = "\n".join(line for (line,) in connection.execute(query.encode(), {"seqs": [1]}))
    assert "Index Cond: (vod_id = ANY (b.vod_ids))" in plan, plan
    assert "Seq Scan on vod_view_counts" not in plan, plan


def test_most_viewed_vods(world: World) -> None:
    """Views are summed over the flushes of a run, equal ones in the order of the ids; with the totals before."""
    world.send("a", 5)
    world.flush()
    for vod_id, views in {"a": 4, "b": 7, "c": 7, "d": 1}.items():
        world.send(vod_id, views)
    report = world.flush(flush_max_counters=1, batch_size=1)
    twice = replace(report, committed=[*report.committed, report.committed[0]])
    recovered = replace(report, committed=report.committed[1:], recovered=[report.committed[0].row])
    nothing = replace(report, committed=[])
    with world.stores.ledger.connect() as connection:
        assert most_viewed_vods(connection, report, 3) == [("b", 7, 7), ("c", 7, 7), ("a", 4, 9)]
        assert most_viewed_vods(connection, twice, 2) == [("a", 8, 9), ("b", 7, 7)]
        assert most_viewed_vods(connection, recovered, 3) == [("b", 7, 7), ("c", 7, 7), ("a", 4, 9)]
        assert most_viewed_vods(connection, nothing, 3) == []
        world.execute("DELETE FROM viewer.vod_view_counts WHERE vod_id = 'b'")
        assert most_viewed_vods(connection, report, 2) == [("b", 7, 0), ("c", 7, 7)]
