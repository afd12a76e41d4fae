"""Runs that read a part of the counters each: of the changed set the oldest, of a sweep what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from viewer_pipeline.cli.in_process_runs import run_flushes
from viewer_pipeline.flush import commit, counter_reader, each_stream
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.sweep_position import SweepPart, SweepPosition
from viewer_pipeline.orchestration.flush_ops import FlushMode
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.world import PREFIX, World

VODS = 120
PAGE, LIMIT = 5, 20
MAX_READ = LIMIT + 3 * PAGE  # SCAN returns whole buckets of its hash table


@pytest.fixture
def world(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose SCAN calls are short, as if it had many keys."""
    monkeypatch.setattr(counter_reader, "SCAN_COUNT", PAGE)
    return world


def part(world: World, mode: Any = "sweep", **options: Any) -> RunReport:
    """Run a flush of a part."""
    done = world.flush(mode, run_max_counters=LIMIT, **options)
    assert done.snapshot.progress.read <= MAX_READ
    return done


def whole_pass(world: World) -> list[RunReport]:
    """Run flushes until none remains."""
    runs = [part(world)]
    while runs[-1].remaining:
        assert len(runs) < VODS
        runs.append(part(world))
    return runs


def position(world: World) -> SweepPosition | None:
    """Return the stored position."""
    return SweepPosition.parse(world.stores.redis.sweep_position())


@contextmanager
def as_user_without(world: World, command: str) -> Iterator[World]:
    """Yield the world over connections of a Redis user that may not run this command."""
    client = world.client
    client.acl_setuser(
        "limited", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", f"-{command}"]
    )
    try:
        with connect(world.stores.redis.url.replace("redis://", "redis://limited:any@")) as limited:
            other = World(Stores(RedisStore(limited, world.stores.redis.url, PREFIX), world.stores.ledger))
            other.sent = world.sent
            yield other
    finally:
        client.acl_deluser("limited")


def test_a_sweep_in_parts_reads_all_and_is_done_after_the_last(world: World) -> None:
    """Each run has a bounded number of counters, and its share of the keys is about right."""
    world.send_many(VODS)
    world.client.mset({f"other:{number}": 1 for number in range(VODS)})
    world.stores.redis.request_sweep("test")
    runs = whole_pass(world)
    assert len(runs) >= VODS / MAX_READ
    assert sum(run.counters for run in runs) == VODS
    persisted = 0
    for run in runs[:-1]:
        at = run.snapshot.progress.part
        assert at is not None
        persisted += run.counters
        assert at.end.share == pytest.approx(persisted / VODS, abs=0.25)
        assert run.remaining == pytest.approx(2 * VODS - persisted * 2, abs=VODS * 0.7)
    world.assert_all_persisted()
    assert (world.stores.redis.sweep_request(), position(world)) == (None, None)


def test_the_request_stays_until_the_whole_pass_is_committed(world: World) -> None:
    """And one that came in after the pass began stays for the next pass."""
    world.send_many(VODS)
    world.stores.redis.request_sweep("first")
    assert part(world).remaining
    assert b"first" in (world.stores.redis.sweep_request() or b"")
    assert part(world).remaining
    assert b"first" in (world.stores.redis.sweep_request() or b"")
    world.stores.redis.request_sweep("second")
    whole_pass(world)
    assert b"second" in (world.stores.redis.sweep_request() or b"")
    whole_pass(world)
    assert world.stores.redis.sweep_request() is None


def test_no_counter_waits_longer_than_a_pass(world: World) -> None:
    """All counters get new views before each run, as under constant traffic: each is persisted once in a pass."""
    world.send_many(VODS)
    before = dict(world.sent)
    runs = 0
    while runs == 0 or position(world):
        part(world)
        runs += 1
        assert runs <= VODS / LIMIT + 1  # no part is read twice
        world.send_many(VODS, 1)
    assert all(world.totals()[vod_id] >= views for vod_id, views in before.items())
    world.assert_conserved()


def test_a_killed_run_repeats_its_part(world: World) -> None:
    """The position stays where the last committed part ended."""
    world.send_many(VODS)
    part(world)
    at = position(world)
    world.drain(run_max_counters=LIMIT)  # it ends here
    assert position(world) == at
    whole_pass(world)
    world.assert_all_persisted()


@pytest.mark.parametrize("garbage", [b"garbage", b"", b"0 1 a b c ", b"\xff" * 200])
def test_an_unreadable_position_begins_the_sweep_again(world: World, garbage: bytes) -> None:
    """With a note; a whole pass follows."""
    world.send_many(VODS)
    assert part(world).remaining
    world.client.hset("viewer:subscriber", "sweep_position", garbage)
    done = part(world)
    assert done.snapshot.progress.part is not None
    assert done.snapshot.progress.part.begin.cursor == 0
    notes = " ".join(done.notes.sentences())
    assert ("the sweep began again at the first key: its position is unreadable" in notes) == bool(garbage)
    whole_pass(world)
    world.assert_all_persisted()


def test_two_runs_from_one_position(world: World) -> None:
    """The second to store its position does not move it, and does not continue; the pass stays whole."""
    world.send_many(VODS)
    world.stores.redis.request_sweep("test")
    part(world)
    first = drain(world.stores, world.request("sweep", run_max_counters=LIMIT))
    both = first.progress.part
    assert both is not None
    bulk_upsert(world.stores, first, aggregate(first.readings))
    at = position(world)
    assert not world.stores.redis.advance_sweep(both._replace(end=both.end._replace(cursor=2**63)))
    assert world.stores.redis.advance_sweep(both)  # sent twice
    assert position(world) == at
    whole_pass(world)
    world.assert_all_persisted()


def test_a_late_script_of_a_pass_that_is_over_stores_nothing(world: World) -> None:
    """It arrives after the whole pass, and after a newer request."""
    world.send_many(VODS)
    world.stores.redis.request_sweep("first")
    runs = whole_pass(world)
    world.stores.redis.request_sweep("second")
    for run in runs[1:]:
        assert run.snapshot.progress.part is not None
        world.stores.redis.advance_sweep(run.snapshot.progress.part)
    assert b"second" in (world.stores.redis.sweep_request() or b"")
    assert position(world) is None


def test_a_redis_without_a_run_id_is_read_in_one_run(world: World) -> None:
    """A position would be of no use."""
    world.send_many(VODS)
    part(world)
    with as_user_without(world, "info") as limited:
        done = limited.flush(run_max_counters=LIMIT)
    assert done.counters > MAX_READ
    assert done.remaining == 0
    assert "Redis was restarted or replaced" in " ".join(done.notes.sentences())
    world.assert_all_persisted()
    assert position(world) is None


def test_announced_vods_are_read_oldest_first(world: World) -> None:
    """The rest stays announced."""
    for number in range(VODS):
        world.send(f"v{number:03d}", 1)
        world.client.zadd("viewer:changed", {f"v{number:03d}": number + 1})
    done = part(world, "changed")
    assert (done.counters, done.remaining) == (LIMIT, VODS - LIMIT)
    assert sorted(world.totals()) == [f"v{number:03d}" for number in range(LIMIT)]
    assert world.client.zcard("viewer:changed") == VODS - LIMIT


def test_what_is_announced_meanwhile_waits_for_the_next_tick(world: World) -> None:
    """Runs that continue each other read what was announced before the first: they come to an end under any traffic."""
    for number in range(VODS):
        world.send(f"v{number:03d}", 1, announce=True)
    done = part(world, "changed")
    runs, before = 1, done.snapshot.announced_before
    while done.remaining:
        later = done.snapshot.taken_at.timestamp() * 1000 + 1
        world.send(f"new{runs}", 1)
        world.client.zadd("viewer:changed", {f"new{runs}": later})
        done = part(world, "changed", announced_before=before)
        runs += 1
    assert runs == VODS / LIMIT
    assert set(world.counters()) == {f"new{number}" for number in range(1, runs)}
    assert world.client.zcard("viewer:changed") == runs - 1


def test_a_changed_set_that_does_not_shrink_launches_no_further_run(world: World) -> None:
    """Here the Redis user may not remove members."""
    for number in range(VODS):
        world.client.zadd("viewer:changed", {f"gone{number}": 1})
    with as_user_without(world, "zrem") as limited:
        done = part(limited, "changed")
        assert (done.counters, done.remaining) == (0, 0)
    assert part(world, "changed").remaining == VODS - LIMIT


def test_rejected_and_parked_counters_end_a_sweep(world: World) -> None:
    """What no run can count does not keep it going."""
    for number in range(VODS):
        world.client.set(f"{PREFIX}bad{number}", "x")
    assert len(whole_pass(world)) <= VODS / LIMIT + 1
    assert len(world.rejected()) == VODS


def test_explicit_ids_are_read_in_one_run(world: World) -> None:
    """They are in the run config anyway."""
    world.send_many(VODS)
    done = world.flush("ids", vod_ids=tuple(world.sent), run_max_counters=LIMIT)
    assert (done.counters, done.remaining) == (VODS, 0)


def flush_by_command(dagster: DagsterWorld, settings: Settings) -> None:
    """Run flushes as `viewer-pipeline flush` and the last flush of a worker do."""
    settings = settings.copy_unvalidated(run_max_counters=LIMIT)
    results = list(run_flushes(dagster.instance, settings, FlushMode.sweep, trigger="test"))
    assert all(result.success for result in results)


@pytest.mark.parametrize("at", [0, 2])
def test_the_command_goes_on_where_another_run_has_moved_the_position(
    world: World, dagster: DagsterWorld, dagster_settings: Settings, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """It ends after a pass of its own. A run that lost the race for one part does not end the pass."""
    world.send_many(VODS)
    parts, advance_sweep = list[SweepPart](), RedisStore.advance_sweep

    def lose_race(store: RedisStore, part: SweepPart) -> bool:
        parts.append(part)
        if len(parts) == at + 1:
            part = part._replace(end=part.end._replace(began_ms=1))
            assert advance_sweep(store, part)
            return False
        return advance_sweep(store, part)

    monkeypatch.setattr(RedisStore, "advance_sweep", lose_race)
    flush_by_command(dagster, dagster_settings)
    world.assert_all_persisted()


def test_the_command_goes_on_after_a_run_that_others_superseded(
    world: World, dagster: DagsterWorld, dagster_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What that run has read is not committed."""
    world.send_many(VODS)
    runs = list[Any]()

    def commit_first(readings: Any) -> Any:
        runs.append(readings)
        if len(runs) == 2:
            world.flush("ids", vod_ids=("vod0000",))
        return aggregate(readings)

    monkeypatch.setattr(commit, "SUPERSEDED_TRIES", 1)
    monkeypatch.setattr(each_stream, "aggregate", commit_first)
    world.send("vod0000")
    flush_by_command(dagster, dagster_settings)
    world.assert_all_persisted()
