"""The baseline: counts from before, taken once; concurrent flushes are neither lost nor counted twice."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from viewer_pipeline.errors import BadCounts, SettingsError
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.history import baseline_csv
from viewer_pipeline.history.baseline import (
    Baseline,
    read_baseline,
    take_baseline_from_counts,
    take_baseline_from_target,
)
from viewer_pipeline.history.baseline_csv import read_baseline_csv
from viewer_pipeline.target.add_or_park import add_to_target
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World


@pytest.fixture
def vods(stores: Stores) -> TargetWorld:
    """Streamix's tables, with VODs that have views from before."""
    world = TargetWorld(stores)
    world.make_streamix()
    world.add_vods("a", "b", "c", count=100)
    world.add_vods("none")
    return world


def from_target(world: TargetWorld, *, again: bool = False) -> Baseline:
    """Take the baseline from the target table."""
    with world.stores.ledger.connect() as connection:
        return take_baseline_from_target(connection, world.stores.ledger, again=again)


def from_file(world: World, path: Path, *, again: bool = False) -> Baseline:
    """Take the baseline from a file."""
    with world.stores.ledger.connect() as connection:
        return take_baseline_from_counts(connection, read_baseline_csv(path), path.name, again=again)


def rows(world: World) -> dict[str, tuple[int, int]]:
    """Return total and baseline of each VOD."""
    totals = world.rows("SELECT vod_id, view_count, baseline FROM viewer.vod_view_counts")
    return {vod_id: (total, baseline) for vod_id, total, baseline in totals}


def test_take_from_target(vods: TargetWorld) -> None:
    """The counts of the table, less the counted views; for VODs with and without a total. Only once."""
    vods.send("a", 5)
    vods.send("ghost", 6)
    vods.flush()
    baseline = from_target(vods)
    assert (baseline.source, baseline.vods, baseline.views, baseline.new) == ('target "public"."Vod"', 3, 300, True)
    assert rows(vods) == {"a": (105, 100), "b": (100, 100), "c": (100, 100)}
    vods.execute("""UPDATE public."Vod" SET "viewCount" = 1""")
    assert from_target(vods) == baseline._replace(new=False)
    assert rows(vods) == {"a": (105, 100), "b": (100, 100), "c": (100, 100)}
    assert from_target(vods, again=True).views == -4 + 1 + 1 + 1
    assert rows(vods) == {"a": (1, -4), "b": (1, 1), "c": (1, 1), "none": (1, 1)}
    vods.assert_conserved()


def test_take_counts_from_a_file(world: World, tmp_path: Path) -> None:
    """A second file replaces the baselines of its VODs only; counted views are not affected."""
    world.send("a", 5)
    world.flush()
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text('\ufeffvod_id,count\r\na,100\r\n"b, ""c""\nd",7\r\n\r\nzero,0\r\n', encoding="utf-8")
    second.write_text("vod_id,count\na,50\n")
    baseline = from_file(world, first)
    assert (baseline.source, baseline.vods, baseline.views, baseline.new) == ("first.csv", 2, 107, True)
    expected = {"a": (105, 100), 'b, "c"\nd': (7, 7), "zero": (0, 0)}
    assert rows(world) == expected
    assert from_file(world, second) == baseline._replace(new=False)
    assert rows(world) == expected
    assert from_file(world, second, again=True).views == 57
    assert rows(world) == expected | {"a": (55, 50)}
    world.assert_conserved()


INVALID: dict[str, tuple[str | bytes, str]] = {
    "header": ("id,views\na,1\n", "line 1: expected the header vod_id,count"),
    "empty": ("", "line 1: expected the header"),
    "fields": ("vod_id,count\na,1\nb\n", "line 3: expected 2 fields, not 1"),
    "negative": ("vod_id,count\na,-1\n", "line 2: count '-1': expected a whole number"),
    "fraction": ("vod_id,count\na,1.5\n", "line 2: count '1.5'"),
    "large": ("vod_id,count\na,9223372036854775808\n", "line 2: count '9223372036854775808'"),
    "no id": ("vod_id,count\n,1\n", "line 2: empty id"),
    "long id": (f"vod_id,count\n{'x' * 256},1\n", "line 2: id longer than 255 characters"),
    "bytes": (b"vod_id,count\na,1\n\xff,1\n", "line 3: id is not UTF-8"),
    "duplicate": ("vod_id,count\na,1\nb,1\na,1\n", "line 2: duplicate id 'a'; line 4: duplicate id 'a'"),
    "many": ("vod_id,count\n" + ",1\n" * 15, "line 11: empty id; and 5 more"),
    "field": (f"vod_id,count\n{'x' * 200_000},1\n", "line 2: field larger than field limit"),
}


@pytest.mark.parametrize("name", INVALID)
def test_read_counts_reports_invalid_lines(world: World, tmp_path: Path, name: str) -> None:
    """Invalid lines are named by number, and nothing is imported."""
    content, message = INVALID[name]
    path = tmp_path / "counts.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadCounts, match=message):
        from_file(world, path)
    assert rows(world) == {}
    with world.stores.ledger.connect() as connection:
        assert read_baseline(connection) is None


def test_read_counts_with_colliding_digests(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ids with the same digest are no duplicates."""
    monkeypatch.setattr(baseline_csv, "_digest", lambda _: 7)
    path = tmp_path / "counts.csv"
    path.write_text("vod_id,count\na,1\nb,2\n")
    assert from_file(world, path).views == 3


def test_take_baseline_from_a_missing_source(world: World, tmp_path: Path) -> None:
    """A missing file or table raises an error that names it."""
    with pytest.raises(BadCounts, match="No such file"):
        from_file(world, tmp_path / "none.csv")
    with world.stores.ledger.connect() as connection, pytest.raises(SettingsError, match="TARGET_TABLE is not set"):
        take_baseline_from_target(connection, world.stores.ledger)


def test_take_from_target_waits_for_a_running_flush(vods: TargetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that has added its views but not committed blocks the baseline, which then reads the committed counts."""
    add, taking = add_to_target, list[Future[Baseline]]()

    def add_and_take(*arguments: Any) -> Any:
        added = add(*arguments)
        taking.append(pool.submit(from_target, vods))
        wait_until(lambda: lock_wait(vods), 20, "the baseline waits for the flush")
        return added

    vods.send("a", 5)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr("viewer_pipeline.flush.ledger.add_to_target", add_and_take)
        vods.flush()
        assert taking[0].result().views == 300
    assert rows(vods)["a"] == (105, 100)
    assert vods.target()["a"] == 105
    vods.assert_conserved()


def lock_wait(world: World) -> bool:
    """Whether a session waits for a lock."""
    return world.rows(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ) != [(0,)]


@pytest.mark.parametrize("source", ["target", "file"])
def test_take_baseline_while_flushes_run(vods: TargetWorld, tmp_path: Path, source: str) -> None:
    """After many concurrent baselines the counted views are those sent, and the target equals the totals."""
    path = tmp_path / "counts.csv"
    path.write_text("vod_id,count\na,100\nb,100\nc,100\n")
    stop, flushes = Event(), list[Any]()

    def send_and_flush() -> None:
        while not stop.is_set():
            for vod_id in ("a", "b", "c", "none", "ghost"):
                vods.send(vod_id, 1)
            flushes.append(vods.flush())

    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(send_and_flush)
        while len(flushes) < 20 and not flushing.done():
            baseline = from_target(vods, again=True) if source == "target" else from_file(vods, path, again=True)
            assert (baseline.vods, baseline.views) == (3, 300)
        stop.set()
        flushing.result()
    vods.flush()
    vods.assert_conserved()
    assert vods.target() == {vod_id: total for vod_id, (total, _) in rows(vods).items()}
