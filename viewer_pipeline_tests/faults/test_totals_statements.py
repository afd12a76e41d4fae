"""The statements that add a flush to the totals, beside other transactions that change the same totals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Barrier
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from viewer_pipeline.flush import transaction
from viewer_pipeline.flush.ledger_row_types import Flush
from viewer_pipeline.flush.transaction import SQL
from viewer_pipeline_tests.support.totals_statements import MERGE, forced
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.world import World

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
ADD_VIEWS = """
    INSERT INTO viewer.vod_view_counts AS t VALUES (%s, %s, 0, 0, now())
    ON CONFLICT (vod_id) DO UPDATE SET view_count = t.view_count + excluded.view_count
"""
UNLOCKED = "SELECT vod_id FROM viewer.vod_view_counts ORDER BY vod_id FOR UPDATE SKIP LOCKED"
FILL = """
    INSERT INTO viewer.vod_view_counts
    SELECT 'vod' || lpad(n::text, 6, '0'), 1, 0, 0, now() FROM generate_series({}) AS n
"""
PLANNER_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name ~ '^enable_|_cost$' ORDER BY name"
ROUNDS, SHARED_VODS = 30, 300


@contextmanager
def adding(world: World, vod_id: str, views: int) -> Iterator[psycopg.Connection]:
    """Add views to a total in another transaction, which is still open: as when parked views are applied."""
    with psycopg.connect(world.stores.ledger.url) as other:
        other.execute(ADD_VIEWS, (vod_id, views))
        world.sent[vod_id] += views
        yield other


def wait_for_lock(world: World, transactions: int = 1) -> None:
    """Wait until so many transactions wait for another one."""
    wait_until(lambda: world.rows(WAITING) == [(transactions,)], 20, f"{transactions} to wait")


@pytest.fixture
def merge(world: World) -> Iterator[World]:
    """A world whose flushes use MERGE."""
    with forced(MERGE, world):
        yield world


@pytest.mark.usefixtures("totals_statement")
def test_rows_are_locked_in_the_order_of_ids(world: World) -> None:
    """Whatever their order in the table: two transactions that lock rows in one order never wait for each other."""
    world.execute(FILL.format("99, 0, -1"))
    world.execute("UPDATE viewer.vod_view_counts SET baseline = 1")
    for number in range(100):
        world.send(f"vod{number:06d}", 3)
    with adding(world, "vod000050", 2) as other:
        flush = world.in_thread(batch_size=10, flush_max_counters=100)
        wait_for_lock(world)
        assert [vod_id for (vod_id,) in world.rows(UNLOCKED)] == [f"vod{number:06d}" for number in range(51, 100)]
        other.commit()
        flush.result(ENOUGH)
    world.assert_all_persisted()


@pytest.mark.usefixtures("totals_statement")
@pytest.mark.parametrize("commits", [True, False])
def test_another_transaction_inserts_the_total_meanwhile(world: World, commits: bool) -> None:
    """The flush waits for it, and adds to its total, or inserts its own."""
    for vod_id in "abc":
        world.send(vod_id, 3)
    with adding(world, "b", 2) as other:
        flush = world.in_thread()
        wait_for_lock(world)
        if commits:
            other.commit()
        else:
            other.rollback()
            world.sent["b"] -= 2
        assert flush.result(ENOUGH).views == 9
    assert (world.seqs(), world.parked()) == ([1], {})
    world.assert_all_persisted()


@pytest.mark.usefixtures("totals_statement")
def test_two_others_change_a_total_while_the_flush_waits(world: World) -> None:
    """Three transactions add to one total, each waiting for the one before: all views are in it."""
    world.send("a", 1)
    world.flush()
    for _ in range(10):
        world.send("a", 100)
        add_beside_two_others(world)
    world.assert_all_persisted()


def add_beside_two_others(world: World) -> None:
    """Run a flush that waits for a transaction, and then for a second one that has waited for the first as well."""
    with adding(world, "a", 1) as first, psycopg.connect(world.stores.ledger.url) as second:
        with ThreadPoolExecutor(1) as pool:
            added = pool.submit(second.execute, ADD_VIEWS, ("a", 10))
            world.sent["a"] += 10
            wait_for_lock(world)
            flush = world.in_thread()
            wait_for_lock(world, 2)
            first.commit()
            added.result(ENOUGH)
        wait_until(lambda: flush.done() or world.rows(WAITING) == [(1,)], 20, "the flush to wait again, or to end")
        second.commit()
        flush.result(ENOUGH)


def test_a_total_over_int64_parks_its_views(merge: World) -> None:
    """Also beside a VOD that another transaction inserts: the flush starts over once, and counts all others."""
    merge.execute("INSERT INTO viewer.vod_view_counts VALUES ('full', %s, %s, 0, now())", 2**63 - 2, 2**63 - 2)
    for vod_id in ("b", "full"):
        merge.send(vod_id, 7)
    with adding(merge, "b", 2) as other:
        flush = merge.in_thread()
        wait_for_lock(merge)
        other.commit()
        flush.result(ENOUGH)
    assert (merge.totals(), merge.parked()) == ({"b": 9, "full": 0}, {"full": 7})
    merge.assert_conserved()


def test_two_flushes_over_the_same_totals_never_deadlock(merge: World) -> None:
    """One merges, as flushes do; the other one upserts, as repairs do, whose rows are in another order in the table."""
    merge.execute(FILL.format(f"{SHARED_VODS}, 1, -1"))
    ids = [f"vod{number:06d}" for number in range(1, SHARED_VODS + 1)]
    both = Barrier(2)

    def add(step: Callable[[psycopg.Connection, Flush], Any], first_seq: int) -> None:
        with merge.stores.ledger.connect() as connection:
            for seq in range(first_seq, 2 * ROUNDS, 2):
                flush = Flush(seq, 0, uuid4(), "run", "sweep", datetime.now(UTC)).with_counters(ids, [1] * len(ids), 50)
                with connection.transaction():
                    transaction.copy_batches(connection, flush.batches)
                    both.wait(ENOUGH)
                    step(connection, flush)

    with ThreadPoolExecutor(2) as pool:
        for flusher in [
            pool.submit(add, transaction.merge_into_totals, 0),
            pool.submit(add, transaction.add_to_totals, 1),
        ]:
            flusher.result(ENOUGH)
    assert merge.rows("SELECT DISTINCT view_count FROM viewer.vod_view_counts") == [(1 + 2 * ROUNDS,)]


@pytest.mark.parametrize("commits", [True, False])
def test_settings_for_the_plan_end_with_the_transaction(merge: World, commits: bool) -> None:
    """The connection is used for other statements afterwards; behind a pooler, by other clients."""
    flush = Flush(1, 0, uuid4(), "run", "sweep", datetime.now(UTC)).with_counters(["a"], [1], 100)
    with merge.stores.ledger.connect() as connection:
        before = connection.execute(PLANNER_SETTINGS).fetchall()
        with connection.transaction(force_rollback=not commits):
            transaction.copy_batches(connection, flush.batches)
            transaction.merge_into_totals(connection, flush)
            assert connection.execute(PLANNER_SETTINGS).fetchall() != before
        assert connection.execute(PLANNER_SETTINGS).fetchall() == before


@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize(
    ("step", "counters", "join"),
    [(1, 2000, "Merge Left Join"), (100, 200, "Nested Loop Left Join"), (1, 1, "Nested Loop Left Join")],
    ids=["a whole range", "one of a hundred", "one"],
)
def test_the_plan_of_the_merge(merge: World, analyzed: bool, step: int, counters: int, join: str) -> None:
    """It reads the totals by their index within the bounds, in the order of ids; with statistics, not all for a few."""
    merge.execute(FILL.format("20000, 1, -1"))
    ids = [f"vod{number:06d}" for number in range(1, 1 + counters * step, step)]
    plan = "\n".join(plan_of_merge(merge, ids, analyzed=analyzed))
    assert join in plan or not analyzed, plan
    assert f"(vod_id <= '{ids[-1]}'" in plan, plan
    assert "Seq Scan" not in plan, plan
    assert "Hash" not in plan, plan


def plan_of_merge(world: World, ids: list[str], *, analyzed: bool) -> list[str]:
    """Return the plan that a flush of these ids gets; `analyzed`: the ledger has statistics, of larger flushes."""
    larger = Flush(1, 0, uuid4(), "run", "sweep", datetime.now(UTC)).with_counters(ids * 3, [1] * len(ids) * 3, 100)
    flush = Flush(2, 1, uuid4(), "run", "sweep", datetime.now(UTC)).with_counters(ids, [1] * len(ids), 100)
    parameters = {"seq": flush.seq, "batches": len(flush.batches), "first": ids[0], "last": ids[-1], "parked": []}
    with world.stores.ledger.connect() as connection, connection.transaction():
        transaction.copy_batches(connection, larger.batches)
        if analyzed:
            connection.execute("ANALYZE viewer.flush_batch, viewer.vod_view_counts")
        transaction.copy_batches(connection, flush.batches)
        connection.execute(SQL["follow_index_of_totals"])
        statement = f"EXPLAIN {SQL['merge_totals']}"
        return [line for (line,) in connection.execute(statement, parameters, prepare=False)]
