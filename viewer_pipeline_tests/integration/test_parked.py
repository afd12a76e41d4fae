"""Parked views: found in turn, however many there are, counted once, pruned with a record."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from viewer_pipeline.target import parked_views
from viewer_pipeline.target.add_or_park import force_index_scans
from viewer_pipeline.target.parked_views import (
    all_ready_parked,
    apply_parked,
    discard_parked,
    largest_parked,
    next_ready_or_advance_cursor,
    parked_by_reason,
    prune_parked,
    still_parked_of_flushes,
)
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until

WAITING = """
SELECT count(*)::integer FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
"""
MANY = 3000  # parked rows, of which one look takes in some hundreds


@pytest.fixture
def made_up(vods: TargetWorld, monkeypatch: pytest.MonkeyPatch) -> TargetWorld:
    """Many parked ids of VODs that nobody made; scans are small."""
    monkeypatch.setattr(parked_views, "NEWEST_ROWS", 200)
    monkeypatch.setattr(parked_views, "PAGE_SIZE", 500)
    vods.execute(
        "INSERT INTO viewer.parked (vod_id, views, reason, last_flush, first_seen, updated_at)"
        " SELECT 'made up ' || to_char(n, 'FM0000'), 1, 'no row', 0, now() - n * interval '1 minute', now()"
        f" FROM generate_series(1, {MANY}) AS n"
    )
    return vods


def scans_until_found(world: TargetWorld, vod_id: str) -> int:
    """Return how many scans it takes until one finds the VOD."""
    with world.stores.ledger.connect() as connection:
        target = world.stores.ledger.target(connection)
        assert target is not None
        for scans in range(1, 100):
            if next_ready_or_advance_cursor(connection, target) == [vod_id]:
                return scans
    raise AssertionError(f"{vod_id} was never found")


@pytest.mark.parametrize("number", [1, 500, 501, 1499, MANY])
def test_scan_reaches_every_parked_vod(made_up: TargetWorld, number: int) -> None:
    """One pass handles a page; the next pass continues there, and starts over at the end."""
    vod_id = f"made up {number:04d}"
    made_up.add_vods(vod_id)
    position = -(-number // 500)
    assert scans_until_found(made_up, vod_id) == position
    assert scans_until_found(made_up, vod_id) == 1  # a run finds what the precheck before it found
    made_up.flush()
    assert made_up.target() == {vod_id: 1}


def test_scan_includes_the_newest(made_up: TargetWorld) -> None:
    """A VOD whose first views came before its row is found by the next scan, however many others are parked."""
    made_up.send("zz late", 3)
    made_up.flush()
    made_up.add_vods("zz late")
    assert scans_until_found(made_up, "zz late") == 1


def test_scan_reads_by_index(made_up: TargetWorld) -> None:
    """By the ids of the table, however large it is, and by the indexes of what is parked."""
    made_up.add_vods(*(f"vod{number}" for number in range(5000)))
    with made_up.stores.ledger.connect() as connection:
        target = made_up.stores.ledger.target(connection)
        assert target is not None
        connection.execute('ANALYZE viewer.parked; ANALYZE public."Vod"')
        page = {"newest": 20, "limit": 20, "after": "made up 1", "hours": 1}
        explain = b"EXPLAIN " + target.statement(parked_views.SQL["parked_ready"]).as_bytes(connection)
        with connection.transaction():
            force_index_scans(connection, "20s")
            plan = connection.execute(explain, page).fetchall()
    plan_text = "\n".join(line for (line,) in plan)
    assert "Seq Scan" not in plan_text, plan_text
    assert "parked_first_seen" in plan_text, plan_text
    assert "parked_pkey" in plan_text, plan_text


def test_all_of_them(made_up: TargetWorld) -> None:
    """All of them are returned, page by page."""
    came = ["made up 0007", "made up 0777", f"made up {MANY}"]
    made_up.add_vods(*came)
    with made_up.stores.ledger.connect() as connection:
        target = made_up.stores.ledger.target(connection)
        assert target is not None
        ready = [vod_id for page in all_ready_parked(connection, target) for vod_id in page]
        assert ready == came
        assert apply_parked(connection, target, ready) == (3, 3)
        assert apply_parked(connection, target, ready) == (0, 0)
    assert made_up.target() == dict.fromkeys(came, 1)


def test_what_somebody_is_counting_is_left_to_them(made_up: TargetWorld) -> None:
    """Nobody waits for them, and nothing is counted twice when they are done."""
    vod_ids = ["made up 0001", "made up 0002"]
    made_up.add_vods(*vod_ids)
    ledger = made_up.stores.ledger
    with ledger.connect() as first, ledger.connect() as other, ThreadPoolExecutor(1) as pool:
        target = ledger.target(first)
        assert target is not None
        with first.transaction():
            assert len(parked_views._lock_and_apply(first, target, vod_ids)) == 2
            counted = pool.submit(apply_parked, other, target, vod_ids)
            wait_until(lambda: counted.done() or made_up.rows(WAITING) == [(1,)], 20, "the other to come upon the rows")
        assert counted.result(ENOUGH) == (0, 0)
    assert made_up.target() == made_up.totals() == dict.fromkeys(vod_ids, 1)


def test_concurrent_counting_counts_once(made_up: TargetWorld) -> None:
    """Several who count the same parked views add them once."""
    vod_ids = [f"made up {number:04d}" for number in range(1, 401)]
    made_up.add_vods(*vod_ids)

    def count(_: int) -> int:
        with made_up.stores.ledger.connect() as connection:
            target = made_up.stores.ledger.target(connection)
            assert target is not None
            return apply_parked(connection, target, vod_ids).vods

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(count, range(4))) == 400
    assert made_up.target() == made_up.totals() == dict.fromkeys(vod_ids, 1)


def test_parked_views_by_reason(vods: TargetWorld) -> None:
    """Most views first; the VODs with the most likewise."""
    vods.add_vods("full", count=2**31 - 1)
    for vod_id, views in {"full": 2, "ghost": 5, "spook": 9}.items():
        vods.send(vod_id, views)
    vods.flush()
    with vods.stores.ledger.connect() as connection:
        assert [(reason.vods, reason.views) for reason in parked_by_reason(connection)] == [(2, 14), (1, 2)]
        assert [(vod.vod_id, vod.views) for vod in largest_parked(connection, 2)] == [("spook", 9), ("ghost", 5)]


def test_discarding(vods: TargetWorld) -> None:
    """The views are gone from the parked, and on record; those of others stay."""
    vods.send("ghost", 5)
    vods.send("spook", 6)
    vods.flush()
    with vods.stores.ledger.connect() as connection:
        assert discard_parked(connection, "ghost", "because") == 5
        assert discard_parked(connection, "ghost", "because") is None
    assert vods.parked() == {"spook": 6}
    assert vods.rows("SELECT source, subject, value, reason FROM viewer.rejected") == [
        ("parked", "ghost", "5", "because")
    ]


def test_retention(vods: TargetWorld) -> None:
    """Views of VODs that never existed are discarded after the retention, on record; by default all stay."""
    for vod_id in ("old", "young", "revived"):
        vods.send(vod_id, 5)
    vods.flush()
    vods.execute("UPDATE viewer.parked SET first_seen = now() - interval '40 days'")
    vods.execute("UPDATE viewer.parked SET updated_at = now() - interval '40 days' WHERE vod_id = 'old'")
    vods.execute("UPDATE viewer.parked SET updated_at = now() - interval '29 days' WHERE vod_id <> 'old'")
    vods.flush()
    assert vods.parked().keys() == {"old", "young", "revived"}
    vods.send("revived", 1)
    vods.flush(parked_retention_days=30)
    assert vods.parked() == {"young": 5, "revived": 6}
    assert vods.rows("SELECT source, subject, value, reason FROM viewer.rejected") == [
        ("parked", "1 VOD", "5", "no row came for them within PARKED_RETENTION_DAYS=30")
    ]


def test_retention_keeps_views_that_can_be_counted(vods: TargetWorld) -> None:
    """A row that came late is served first."""
    vods.send("old", 5)
    vods.flush()
    vods.execute("UPDATE viewer.parked SET first_seen = '2020-01-01', updated_at = '2020-01-01'")
    vods.add_vods("old")
    vods.flush(parked_retention_days=30)
    vods.assert_all_persisted()


def test_retention_leaves_rows_that_somebody_holds(vods: TargetWorld) -> None:
    """It waits for nobody."""
    vods.send("old", 5)
    vods.flush()
    vods.execute("UPDATE viewer.parked SET first_seen = '2020-01-01', updated_at = '2020-01-01'")
    with (
        psycopg.connect(vods.stores.ledger.url) as other,
        vods.stores.ledger.connect() as connection,
    ):
        target = vods.stores.ledger.target(connection)
        assert target is not None
        other.execute("SELECT FROM viewer.parked FOR UPDATE")
        assert prune_parked(connection, target, 30) == (0, 0)
        other.rollback()
        assert prune_parked(connection, target, 30) == (1, 5)


def test_still_parked_of_flushes(vods: TargetWorld) -> None:
    """Views that these flushes parked, also if a later one parked more of the VOD; none of other flushes."""
    vods.add_vods("real")
    for views in ({"real": 1}, {"ghost": 5, "spirit": 2, "real": 1}, {"ghost": 3}, {"real": 1}):
        for vod_id, count in views.items():
            vods.send(vod_id, count)
        vods.flush()
    with vods.stores.ledger.connect() as connection:

        def still_parked(*seqs: int) -> tuple[int, int]:
            parked = still_parked_of_flushes(connection, seqs)
            return parked.vods, parked.views

        assert [still_parked(seq) for seq in (1, 2, 3, 4)] == [(0, 0), (2, 7), (1, 3), (0, 0)]
        assert still_parked(2, 3) == (2, 10)
        assert still_parked() == (0, 0)
        vods.add_vods("ghost")
        vods.flush()
        assert still_parked(2, 3) == (1, 2)
