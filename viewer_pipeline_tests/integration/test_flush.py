"""A flush on real servers, undisturbed."""

from __future__ import annotations

import pytest

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline_tests.support.world import PREFIX, World


def test_flush_moves_counters_to_totals(world: World) -> None:
    """Every view is persisted, its counter is gone, the marker stands at the last batch."""
    world.send("a", 5)
    world.send("b", 7)
    done = world.flush()
    assert (done.counters, done.views, done.seqs) == (2, 12, [1])
    world.assert_all_persisted()
    assert world.marker() == Marker(1, 1, 1)


def test_a_second_flush_adds(world: World) -> None:
    """Totals grow by what came in since the last flush."""
    world.send("a", 5)
    world.flush()
    world.send("a", 2)
    world.flush()
    assert world.totals() == {"a": 7}
    assert world.seqs() == [1, 2]


def test_nothing_to_do_writes_nothing(world: World) -> None:
    """An empty run leaves no row in the ledger."""
    done = world.flush()
    assert done.committed == []
    assert world.seqs() == []


def test_large_snapshots_are_cut_into_flushes_and_batches(world: World) -> None:
    """Ten counters at four a flush and two a batch: three flushes of two, two and one batch."""
    world.send_many(10)
    done = world.flush()
    assert [len(counted.flush.batches) for counted in done.committed] == [2, 2, 1]
    assert world.seqs() == [1, 2, 3]
    world.assert_all_persisted()


def test_views_that_arrive_during_a_flush_stay(world: World) -> None:
    """What comes in between read and settle is pending afterwards (rule R2)."""
    world.send("a", 5, announce=True)
    snapshot = drain(world.stores, world.request())
    world.send("a", 3)
    bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    assert world.counters() == {"a": 3}
    assert world.client.zscore("viewer:changed", "a") is not None
    world.assert_conserved()
    world.flush("changed")
    world.assert_all_persisted()


def test_age_of_what_is_pending_starts_anew(world: World) -> None:
    """A VOD that is always hot is not reported as pending since its first announcement ever."""
    world.send("a", 5, announce=True)
    snapshot = drain(world.stores, world.request())
    world.send("a", 3)
    bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    score = world.client.zscore("viewer:changed", "a")
    assert score == int(snapshot.taken_at.timestamp() * 1000)


def test_changed_mode_reads_the_changed_set_only(world: World) -> None:
    """A counter that nobody announced waits for the sweep."""
    world.send("announced", 1, announce=True)
    world.send("silent", 1)
    world.flush("changed")
    assert world.totals() == {"announced": 1}
    world.flush("sweep")
    world.assert_all_persisted()


def test_ids_mode_flushes_these_ids_only(world: World) -> None:
    """A manual run for some VODs leaves the others."""
    world.send("a", 1)
    world.send("b", 1)
    world.flush("ids", vod_ids=("b", "unknown"))
    assert world.totals() == {"b": 1}
    assert world.counters() == {"a": 1}


def test_announcements_without_a_counter_are_removed(world: World) -> None:
    """Else the sensor would launch a run for them for ever."""
    world.client.zadd("viewer:changed", {"gone": 1, "zero": 1})
    world.client.set(PREFIX + "zero", 0)
    world.flush("changed")
    assert world.client.zcard("viewer:changed") == 0
    assert world.client.get(PREFIX + "zero") == b"0"
    assert world.rejected() == {}


@pytest.mark.parametrize(
    "vod_id", ["a:b:c", "with space", "😀", "ü" * 255, "'; DROP TABLE x; --", "{1,2}", '"', "a\nb", "%s"]
)
def test_unusual_ids_are_good_ids(world: World, vod_id: str) -> None:
    """Colons, blanks, emoji, quotes: ids are text and nothing else."""
    world.send(vod_id, 3)
    world.send("plain", 1)
    world.flush()
    world.assert_all_persisted()


BAD_VALUES = {
    "abc": "value is not an integer",
    "1.5": "value is not an integer",
    "": "value is not an integer",
    " 7": "value is not an integer",
    "007": "value is not an integer",
    "+7": "value is not an integer",
    "1_000": "value is not an integer",
    "-3": "value is negative",
    str(2**63): "value is over int64",
    "9" * 25: "value is over int64",
    "x" * 10_000_000: "value is not an integer",
}


@pytest.mark.parametrize("value", BAD_VALUES, ids=lambda value: value[:12] or "empty")
def test_bad_values_are_rejected_beside_good_ones(world: World, value: str) -> None:
    """They are recorded with the reason, stay as they are, and hold nothing else up."""
    world.client.set(PREFIX + "bad", value)
    world.client.zadd("viewer:changed", {"bad": 1})
    world.send("good", 4)
    world.flush()
    assert world.rejected() == {"bad": BAD_VALUES[value]}
    assert world.client.get(PREFIX + "bad") == value.encode()
    assert world.totals() == {"good": 4}
    assert world.client.zcard("viewer:changed") == 0


def test_int64_itself_is_a_count(world: World) -> None:
    """The largest counter that Redis can hold is persisted to the last view."""
    world.send("max", 2**63 - 1)
    world.flush()
    world.assert_all_persisted()


@pytest.mark.parametrize(
    ("make", "kind"), [("lpush", "list"), ("sadd", "set"), ("hset", "hash"), ("zadd", "zset"), ("xadd", "stream")]
)
def test_keys_of_another_type_are_rejected(world: World, make: str, kind: str) -> None:
    """MGET shows them as missing; their type distinguishes them from missing counters."""
    arguments = {"hset": ("f", "v"), "zadd": ({"m": 1},), "xadd": ({"f": "v"},)}.get(make, ("x",))
    getattr(world.client, make)(PREFIX + "odd", *arguments)
    world.send("good")
    world.flush()
    assert world.rejected() == {"odd": f"key is a {kind}, not a string"}
    assert world.totals() == {"good": 1}
    assert world.client.type(PREFIX + "odd") == kind.encode()


@pytest.mark.parametrize(
    ("raw", "subject", "reason"),
    [
        (b"", "", "empty id"),
        (b"x" * 256, "x" * 256, "id longer than 255 characters"),
        (b"a\x00b", "a\\x00b", "id holds a NUL character"),
        (b"\xff\xfe", "\\xff\\xfe", "id is not UTF-8"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80", "id is not UTF-8"),
    ],
)
def test_bad_ids_are_rejected(world: World, raw: bytes, subject: str, reason: str) -> None:
    """Ids that PostgreSQL cannot hold, or that are longer than we keep."""
    world.client.set(PREFIX.encode() + raw, 3)
    world.client.zadd("viewer:changed", {raw: 1})
    world.send("good")
    world.flush()
    assert world.rejected() == {subject: reason}
    assert world.client.get(PREFIX.encode() + raw) == b"3"
    assert world.totals() == {"good": 1}
    assert world.client.zcard("viewer:changed") == 0


def test_a_reject_is_recorded_once(world: World) -> None:
    """Not at every sweep, also when there is nothing else to flush."""
    world.client.set(PREFIX + "bad", "abc")
    for _ in range(3):
        world.flush()
    assert world.rows("SELECT count(*) FROM viewer.rejected") == [(1,)]


def test_a_total_that_would_leave_bigint_parks_its_views(world: World) -> None:
    """One VOD that overflows does not hold up the others, and loses nothing."""
    world.send("huge", 2**63 - 1)
    world.send("small", 1)
    world.flush()
    world.send("huge", 10)
    world.send("small", 1)
    world.flush()
    world.send("huge", 5)
    world.flush()
    assert world.parked() == {"huge": 15}
    assert world.totals() == {"huge": 2**63 - 1, "small": 2}
    world.assert_conserved()


def test_views_beyond_int64_are_written(world: World) -> None:
    """The views of a flush may exceed bigint in total."""
    for name in "abc":
        world.send(name, 2**63 - 1)
    done = world.flush()
    assert done.views == 3 * (2**63 - 1)
    assert world.rows("SELECT views FROM viewer.flush") == [(3 * (2**63 - 1),)]
    world.assert_all_persisted()


def test_duplicates_from_scan_count_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """SCAN may return a key several times; it is one counter all the same."""
    world.send("a", 5)
    world.send("b", 6)
    once = [raw for ids in world.stores.redis.scan_counters() for raw in ids]
    pages = [(1, once), (2, [b"a", b"a"]), (0, once)]
    monkeypatch.setattr(world.stores.redis, "scan_ahead", lambda *_: iter(pages))
    world.flush()
    world.assert_all_persisted()


def test_a_prefix_with_pattern_characters_matches_only_itself(world: World) -> None:
    """`*`, `?` and brackets in COUNTER_PREFIX are characters, not a pattern."""
    world.stores.redis.__init__(world.client, world.stores.redis.url, "v[1]*?:")  # type: ignore[misc]
    world.client.set("v[1]*?:x", 4)
    world.client.set("v1abc:y", 9)
    world.flush()
    assert world.totals() == {"x": 4}


def test_sweep_request_is_removed_after_the_sweep(world: World) -> None:
    """A request that came in meanwhile stays."""
    world.stores.redis.request_sweep("first")
    world.flush("changed")
    assert world.stores.redis.sweep_request() is not None
    snapshot = drain(world.stores, world.request("sweep"))
    world.stores.redis.request_sweep("second")
    bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    assert b"second" in (world.stores.redis.sweep_request() or b"")
    world.flush("sweep")
    assert world.stores.redis.sweep_request() is None
