"""Several streams: each is a numbering of its own, and one set of streams follows another without a lost view."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from viewer_pipeline.errors import PipelineRefused, StreamsRefused
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.shared_scan import SharedScan
from viewer_pipeline.orchestration.stream_partitions import streams_of_run
from viewer_pipeline.streams import NUMBERS, Stream, stream_of
from viewer_pipeline_tests.support.streams import cut, flush_all, world_of_each_kind
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

__all__ = ["world_of_each_kind"]

VODS = 40


def test_a_run_flushes_all_streams(world: World) -> None:
    """Each VOD in its own stream, each stream with numbers of its own, all views once."""
    world.send_many(VODS)
    world.flush()
    cut(world, 3)
    world.send_many(VODS)
    reports = flush_all(world)
    assert [stream_of(seq) for report in reports for seq in report.seqs[:1]] == [1, 2, 3]
    assert sum(report.counters for report in reports) == VODS
    assert all(report.counters > 5 for report in reports)
    world.assert_all_persisted()
    assert world.counters() == {}


def test_several_changes(world: World) -> None:
    """Streams are never used again, and nothing is read twice or missed."""
    for parts in (2, 4, 1, 3):
        world.send_many(VODS)
        cut(world, parts)
        flush_all(world)
        world.send_many(VODS, views=1)
        flush_all(world)
        world.assert_all_persisted()
    rows = world.rows("SELECT stream, part, parts, state FROM viewer.stream ORDER BY stream")
    assert [row for row in rows if row[3] == "active"] == [
        (8, 0, 3, "active"),
        (9, 1, 3, "active"),
        (10, 2, 3, "active"),
    ]
    assert Counter(row[3] for row in rows) == {"active": 3, "closed": 8}
    assert max(world.seqs()) > 10 * NUMBERS


def test_what_is_committed_and_not_settled_is_settled_by_the_change(world: World) -> None:
    """Its views are in counters which the new streams read."""
    world.send_many(VODS)
    world.flush_unsettled()
    world.send_many(VODS, views=1)
    cut(world, 2)
    flush_all(world)
    world.assert_all_persisted()


def test_a_run_that_read_before_the_change_commits_nothing(world: World) -> None:
    """Its stream is closed; another one has what it has read."""
    world.send_many(VODS)
    snapshot, aggregated = world.drain()
    stores = world.stores
    cut(world, 2)
    report = bulk_upsert(stores, snapshot, aggregated)
    assert (report.left_over, report.counters) == (True, 0)
    flush_all(world)
    world.assert_all_persisted()


def test_another_number_of_streams_than_the_ledger_has(world: World) -> None:
    """A run is refused, and the error names the remedy."""
    with pytest.raises(PipelineRefused, match=r"FLUSH_STREAMS=2, and the ledger has 1 stream; .*streams apply"):
        replace(world.stores, flush_streams=2).of_each_stream()
    assert [stores.ledger.stream for stores in world.stores.of_each_stream()] == [Stream()]


def test_a_run_names_its_parts(world: World) -> None:
    """By tags; those of another number of streams are refused, before anything is read or committed."""
    cut(world, 2)

    def parts(**tags: str) -> list[str]:
        named = {name.replace("_", "/", 1): value for name, value in tags.items()}
        return [stores.ledger.stream.name for stores in streams_of_run(world.stores, named)]

    whole = {"dagster_asset_partition_range_start": "1of2", "dagster_asset_partition_range_end": "2of2"}
    assert parts() == parts(**whole) == ["1of2", "2of2"]
    assert parts(dagster_partition="2of2") == ["2of2"]
    of_three = {name: value.replace("of2", "of3") for name, value in whole.items()}
    for tags in ({"dagster_partition": "1of3"}, of_three):
        with pytest.raises(StreamsRefused, match=r"the run is for 1of3 to .of3, and process \d+ on .* FLUSH_STREAMS=2"):
            parts(**tags)


def test_a_sweep_scans_once_all_streams_have_their_markers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a counter that came between scan and marker would be missed by a sweep that ends a hold (R16)."""
    cut(world, 2)
    world.send_many(VODS)
    scans, calls = list[SharedScan](), list[str]()
    store: Any = type(world.stores.redis)
    begin, scan_ahead, join = store.begin, store.scan_ahead, SharedScan.__init__

    def note_scan(self: SharedScan, streams: int) -> None:
        join(self, streams)
        scans.append(self)

    def begin_last(self: RedisStore, *arguments: Any) -> Any:
        if self.layout.stream.part == 1:
            wait_until(lambda: scans[0]._barrier.n_waiting == 1, 30, "the first stream waits for the second one")
        made = begin(self, *arguments)
        calls.append("begin")
        return made

    def note_and_scan(self: RedisStore, *arguments: Any) -> Any:
        calls.append("scan")
        return scan_ahead(self, *arguments)

    monkeypatch.setattr(SharedScan, "__init__", note_scan)
    monkeypatch.setattr(store, "begin", begin_last)
    monkeypatch.setattr(store, "scan_ahead", note_and_scan)
    flush_all(world)
    assert calls == ["begin", "begin", "scan"]
    world.assert_all_persisted()
