"""Held views (rule R16): a Redis that has lost its marker, because it was emptied or restored from an old copy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from viewer_pipeline.cli.main import main
from viewer_pipeline.flush import commit, counter_reader, transaction
from viewer_pipeline.flush.counter_validation import MAX_COUNT, MAX_ID_CHARACTERS
from viewer_pipeline.flush.drain import SWEEP_REASON
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.history.pruning import prune_ledger
from viewer_pipeline.reconcile import held_views
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.held_views import Decided, count_held, drop_held, held_by_epoch
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, reconcile
from viewer_pipeline.target.parked_views import discard_parked
from viewer_pipeline_tests.support.dying import Died
from viewer_pipeline_tests.support.ledger_world import ONE, History
from viewer_pipeline_tests.support.world import PREFIX, World

MARKER = "viewer:settled"


def copy_of(world: World) -> dict[bytes, Any]:
    """Return all keys of Redis."""
    keys: Any = world.client.keys("*")
    return {key: world.client.dump(key) for key in keys}


def restore(world: World, copy: dict[bytes, Any], *, marker: bool = True) -> None:
    """Let Redis fall back to a copy."""
    world.client.flushall()
    for key, value in copy.items():
        if marker or key != MARKER.encode():
            world.client.restore(key, 0, value)


def hold(world: World) -> str:
    """Return the mark of the marker."""
    marker = world.stores.redis.marker()
    assert marker is not None
    return marker.hold


def epochs(world: World) -> list[tuple[int, int]]:
    """Return VODs and views of each epoch that is held."""
    with world.stores.ledger.connect() as connection:
        return [(row.vods, row.views) for row in held_by_epoch(connection)]


def decide(world: World, decision: str, number: int = 0, size: int = 3) -> Decided:
    """Count or drop what is held of an epoch."""
    with world.stores.ledger.connect() as connection:
        epoch = held_by_epoch(connection)[number].epoch
        if decision == "drop":
            return drop_held(connection, epoch)
        adjuster = Adjuster(world.stores, connection, uuid4().hex, 2)
        return count_held(adjuster, world.stores.ledger.target(connection), epoch, size)


def assert_reconciled(world: World, tmp_path: Any) -> None:
    """Assert that a reconciliation finds no difference."""
    result = reconcile(world.stores, ReconcileRequest("reconcile", tmp_path / "reports", repair=True))
    assert (result.first_differences, result.flushes) == ([], [])


@pytest.fixture
def _short_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each SCAN return few keys, so that a sweep over few counters has parts."""
    monkeypatch.setattr(counter_reader, "SCAN_COUNT", 2)


def hold_new_views(world: World, vods: int) -> None:
    """Count 3 views of each VOD, empty Redis, and let a flush hold 2 new ones."""
    world.send_many(vods)
    world.flush()
    world.client.flushall()
    world.send_many(vods, 2)
    world.flush()


@pytest.fixture
def restored(world: World) -> World:
    """Redis was restored from a copy of before its first run: its counters hold views that were counted."""
    world.send_many(5)
    copy = copy_of(world)
    world.flush()
    restore(world, copy)
    return world


def test_views_of_an_old_copy_are_not_counted_again(restored: World, tmp_path: Any) -> None:
    """They are held, in flushes that are settled and verified like others, until they are dropped."""
    done = restored.flush()
    assert (done.views, done.counters, done.held_views) == (0, 0, 15)
    assert [check for check in verify(restored.stores, done) if not check.passed] == []
    assert restored.counters() == {}
    assert restored.totals() == dict(restored.sent)
    assert restored.held() == restored.sent
    assert_reconciled(restored, tmp_path)
    assert decide(restored, "drop") == (5, 15)
    restored.assert_all_persisted()
    assert_reconciled(restored, tmp_path)


def test_more_views_than_were_counted_are_new(restored: World) -> None:
    """Of each VOD only as many are held as were ever counted; VODs that were never counted are not held at all."""
    restored.send("vod0001", 4)
    restored.send("new", 2)
    done = restored.flush()
    assert (done.views, done.held_views) == (6, 15)
    assert restored.totals() == dict(restored.sent)


def test_views_in_an_emptied_redis_are_counted_by_hand(world: World, tmp_path: Any) -> None:
    """Nobody can tell them from those of a copy: they are held, and counted flush by flush."""
    hold_new_views(world, 5)
    assert world.held() == {f"vod{number:04d}": 2 for number in range(5)}
    world.assert_all_persisted()
    assert decide(world, "count") == (5, 10)
    assert not world.held()
    world.assert_all_persisted()
    marker, seqs = world.marker(), world.seqs()
    assert marker is not None
    assert marker.seq == seqs[-1]
    assert_reconciled(world, tmp_path)
    world.send_many(5)
    world.flush()
    world.assert_all_persisted()


def test_the_setting_counts_them_as_before(restored: World) -> None:
    """REDIS_WITHOUT_MARKER=count: right for a Redis that is only ever emptied."""
    restored.flush(redis_without_marker="count")
    assert restored.totals() == {vod_id: 2 * views for vod_id, views in restored.sent.items()}
    assert not restored.held()
    assert hold(restored) == ""


@pytest.mark.usefixtures("_short_scans")
def test_only_a_whole_sweep_ends_it(restored: World) -> None:
    """Runs of other modes, and parts of a sweep, hold; the last part of a pass that began afterwards ends it."""
    for number in range(30):
        restored.send(f"more {number}")
    restored.client.zadd(restored.stores.redis.names.changed, {"vod0000": 1})
    restored.flush("changed")
    assert restored.held() == {"vod0000": 3}
    restored.flush("ids", vod_ids=("vod0001",))
    assert restored.held() == {"vod0000": 3, "vod0001": 3}
    assert hold(restored) == "2"
    requested: Any = restored.client.hget("viewer:subscriber", "sweep")
    assert requested.decode().endswith(SWEEP_REASON)
    runs = restored.flush_in_parts(10)
    assert len(runs) > 1
    assert hold(restored) == ""
    assert not restored.client.hexists("viewer:subscriber", "sweep")
    assert restored.held() == {f"vod{number:04d}": 3 for number in range(5)}
    assert restored.totals() == dict(restored.sent)
    restored.send_many(5)
    restored.flush()
    assert restored.totals() == dict(restored.sent)


@pytest.mark.usefixtures("_short_scans")
def test_a_sweep_that_began_before_does_not_end_it(world: World) -> None:
    """What it had read was in another state of Redis. The position is that of the copy, and the process is the same."""
    for number in range(30):
        world.send(f"vod{number:04d}", 2)
    world.flush(run_max_counters=10)
    assert world.stores.redis.sweep_position()
    copy = copy_of(world)  # in the middle of a pass
    world.client.delete(MARKER)
    world.flush()  # of another epoch: the copy does not know its flushes
    world.assert_all_persisted()
    restore(world, copy)
    done = world.flush(run_max_counters=5)
    assert done.snapshot.progress.sweep_restarted == "Redis fell back to another state since"
    assert done.notes.skipped_views
    assert hold(world)
    world.flush_in_parts(10)
    assert hold(world) == ""
    assert world.totals() == dict(world.sent)


def test_a_sweep_over_the_keys_of_another_server_does_not_end_it(
    restored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have missed counters."""
    names = iter(["one", "another"] * 2)
    monkeypatch.setattr(RedisStore, "server_run_id", lambda _: next(names))
    assert restored.flush().snapshot.progress.part is not None
    assert hold(restored)
    monkeypatch.undo()
    restored.flush()
    assert hold(restored) == ""


def test_views_behind_a_skipped_flush_are_held(world: World) -> None:
    """The marker of an old copy skips the flushes of another epoch, whose views the copy may hold as well."""
    world.send_many(5)
    world.flush()
    world.send_many(5, 4)
    copy = copy_of(world)
    world.client.delete(MARKER)
    world.flush()  # flushes of another epoch: 3 views of each VOD held, 1 counted
    assert world.held() == {f"vod{number:04d}": 3 for number in range(5)}
    restore(world, copy)
    done = world.flush()
    assert done.notes.skipped_views == 20
    assert epochs(world) == [(5, 15), (5, 20)]
    assert decide(world, "count") == (5, 15)
    assert decide(world, "drop") == (5, 20)
    world.assert_all_persisted()


def test_a_late_call_ends_nothing_of_another_epoch(restored: World) -> None:
    """The script that ends it compares epoch and mark."""
    done = restored.flush()
    part = done.snapshot.progress.part
    assert part is not None
    restored.client.delete(MARKER)
    restored.send_many(5)
    restored.flush("ids", vod_ids=("vod0000",))
    mark = hold(restored)
    assert mark
    assert not restored.stores.redis.advance_sweep(part)
    assert hold(restored) == mark


def test_a_late_call_ends_nothing_of_a_later_fall_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis falls back twice behind the same flush, to two copies: each occasion has its own mark."""
    world.send("first")
    world.flush()
    world.send("vod", 3)
    earlier = copy_of(world)
    world.send("vod", 5)
    later = copy_of(world)
    world.client.delete(MARKER)
    world.flush()  # of another epoch
    restore(world, earlier)
    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "advance_sweep", lambda *_: False)  # it is late
        part = world.flush().snapshot.progress.part
    assert part is not None
    restore(world, later)
    world.drain()
    world.stores.redis.advance_sweep(part)
    world.flush()
    assert world.totals() == dict(world.sent)
    assert world.held() == {"vod": 8}


def test_flushes_that_retention_has_deleted(world: World) -> None:
    """Redis falls back to a copy with its marker that is older than the ledger: what is in it may have been counted."""
    world.send("first")
    world.flush()
    world.send_many(5)
    copy = copy_of(world)
    world.flush()
    world.send("last")
    world.flush()
    history, today = History(world), world.rows("SELECT max(taken_at) FROM viewer.flush")[0][0].astimezone(UTC).date()
    history.roll_up(today, today + ONE)
    assert history.call(prune_ledger, today + ONE * 2, [world.stores.redis.marker()], 60, history.zone).flushes == 3
    restore(world, copy)
    world.flush()
    assert world.totals() == dict(world.sent)
    assert world.held() == {f"vod{number:04d}": 3 for number in range(5)}
    assert hold(world) == ""


def test_retention_deletes_flushes_that_held_views(restored: World, tmp_path: Any) -> None:
    """Also those that are the last of their day, which no roll-up has."""
    restored.flush()
    restored.send("last")
    restored.flush("ids", vod_ids=("last",))
    restored.execute("UPDATE viewer.flush SET taken_at = taken_at - interval '1 day' WHERE mode <> 'ids'")
    history, today = History(restored), restored.rows("SELECT max(taken_at) FROM viewer.flush")[0][0].date()
    history.roll_up(today - ONE, today + ONE)
    history.call(prune_ledger, today, [restored.stores.redis.marker()], 60, history.zone)
    assert restored.rows("SELECT mode FROM viewer.flush") == [("ids",)]
    assert_reconciled(restored, tmp_path)
    decide(restored, "count")
    assert_reconciled(restored, tmp_path)


def test_more_held_views_than_bigint_holds(world: World) -> None:
    """They stop no run. Two flushes count them, and what no total takes is parked."""
    for _ in range(2):
        world.client.delete(MARKER)
        world.client.set(f"{PREFIX}many", MAX_COUNT)
        world.flush("ids", vod_ids=("many",))
    world.client.set(f"{PREFIX}many", 1)
    world.send("new")
    world.flush()
    assert world.totals() == {"many": MAX_COUNT, "new": 1}
    assert world.held() == {"many": MAX_COUNT + 1}
    assert decide(world, "count") == (2, MAX_COUNT + 1)
    assert not world.held()
    assert world.parked() == {"many": MAX_COUNT + 1}


def test_more_counted_views_than_bigint_holds(world: World) -> None:
    """A total whose baseline is negative has more views than it shows."""
    world.send("vod", 5)
    copy = copy_of(world)
    world.flush()
    world.execute("UPDATE viewer.vod_view_counts SET baseline = -10, view_count = %s", MAX_COUNT)
    restore(world, copy)
    world.flush()
    assert world.held() == {"vod": 5}


def test_discarded_views(world: World) -> None:
    """They were counted before as well, also those of the longest id."""
    vod_id = "x" * MAX_ID_CHARACTERS
    world.client.set(PREFIX + vod_id, 5)
    copy = copy_of(world)
    world.flush()
    world.execute("DELETE FROM viewer.vod_view_counts")
    parked = (
        "INSERT INTO viewer.parked (vod_id, views, reason, last_flush, updated_at) VALUES (%s, 5, 'test', 1, now())"
    )
    world.execute(parked, vod_id)
    with world.stores.ledger.connect() as connection:
        assert discard_parked(connection, vod_id, "test") == 5
    restore(world, copy)
    world.flush()
    assert world.totals() == {}
    assert world.held() == {vod_id: 5}


def test_a_run_that_dies_between_new_and_held_views(restored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """New views are committed first: the next run knows them, and holds no more than may have been counted."""
    restored.send_many(5, 4)
    committed, modes = commit._commit, set[str]()

    def die_between(ledger: Any, connection: Any, flush: Any) -> Any:
        modes.add(flush.mode)
        if len(modes) > 1:
            raise Died
        return committed(ledger, connection, flush)

    with monkeypatch.context() as patch:
        patch.setattr(commit, "_commit", die_between)
        with pytest.raises(Died):
            restored.flush()
    restored.flush()
    assert restored.totals() == dict(restored.sent)
    assert restored.held() == {f"vod{number:04d}": 3 for number in range(5)}


def test_two_runs_hold_the_same_views_once(restored: World) -> None:
    """One commits, the other drains again."""
    restored.send_many(5, 1)
    planned = restored.drain()
    restored.flush()
    done = commit.bulk_upsert(restored.stores, *planned)
    assert done.notes.superseded == 1
    assert restored.held() == {f"vod{number:04d}": 3 for number in range(5)}
    assert restored.totals() == dict(restored.sent)


def test_two_processes_count_beside_flushes(world: World) -> None:
    """Each held view is counted once, whichever process takes it."""
    hold_new_views(world, 40)
    with ThreadPoolExecutor(3) as pool:
        counts = [pool.submit(decide, world, "count", 0, 2) for _ in range(2)]
        for number in range(5):
            world.send(f"vod{number:04d}", 7)
            world.flush()
        done = [count.result() for count in counts]
    assert sum(part.views for part in done) == 80
    world.flush()
    assert not world.held()
    world.assert_all_persisted()


@pytest.mark.parametrize("inside", [False, True])
def test_counting_dies(world: World, monkeypatch: pytest.MonkeyPatch, *, inside: bool) -> None:
    """Inside its transaction nothing has moved; a second attempt continues."""
    hold_new_views(world, 5)
    add, calls = transaction.add_to_totals_parking, iter(range(9))

    def die(*arguments: Any) -> Any:
        if next(calls) == 1:
            if inside:
                add(*arguments)
            raise Died
        return add(*arguments)

    monkeypatch.setattr(held_views, "add_to_totals_parking", die)
    with pytest.raises(Died):
        decide(world, "count", 0, 2)
    world.assert_all_persisted()
    assert world.held().total() == 6
    world.flush()
    assert decide(world, "count", 0, 2) == (3, 6)
    world.assert_all_persisted()


def test_daily_views_have_what_was_counted(world: World, tmp_path: Any) -> None:
    """Not what is held; what is counted by hand belongs to the day on which that happens."""
    hold_new_views(world, 5)
    assert sum(views for (views,) in world.rows("SELECT views FROM viewer.flush WHERE viewer.counts_views(mode)")) == 15
    decide(world, "count")
    assert sum(views for (views,) in world.rows("SELECT views FROM viewer.flush WHERE viewer.counts_views(mode)")) == 25
    assert_reconciled(world, tmp_path)


def test_reconcile_reports_held_views_that_are_gone(restored: World, tmp_path: Any) -> None:
    """Somebody deletes rows of viewer.held by hand."""
    restored.flush()
    restored.execute("DELETE FROM viewer.held WHERE vod_id = 'vod0001'")
    result = reconcile(restored.stores, ReconcileRequest("reconcile", tmp_path / "reports"))
    differences = [(each.kind, each.expected, each.actual) for each in result.first_differences]
    assert differences == [("held", 15, 12)]


def test_the_command(restored: World, monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str) -> None:
    """It shows what is held, and wants to know of which occasion where there are several."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)

    def run(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(main, ["held", *arguments])
        assert result.exit_code == status, result.output
        return result.output

    assert run() == "held: 0 views of 0 VODs\n"
    assert run("count") == "counted 0 views of 0 VODs\nheld: 0 views of 0 VODs\n"
    restored.flush()
    assert run().startswith("held: 15 views of 5 VODs\n")
    for _ in range(2):
        restored.client.delete(MARKER)
        restored.send_many(5, 1)
        restored.flush()
    first, second, third = [
        row[0] for row in restored.rows("SELECT epoch FROM viewer.held GROUP BY epoch ORDER BY min(held_at)")
    ]
    assert f"name one or more: --epoch {first} --epoch {second} --epoch {third}" in run("drop", status=1)
    for unknown in ("x", ""):
        decided = run("drop", "--epoch", first, "--epoch", unknown, status=1)
        assert f"no views of epoch '{unknown}' are held" in decided
    restored.execute("UPDATE viewer.held SET epoch = E'\\x1b[31m' WHERE epoch = %s AND vod_id = 'vod0000'", second)
    assert "\\x1b[31m" in run()
    assert "\\x1b[31m" in run("drop", status=1)
    restored.execute("UPDATE viewer.held SET epoch = %s WHERE epoch = E'\\x1b[31m'", second)
    assert run("drop", "--epoch", first).startswith("dropped 15 views of 5 VODs\nheld: 10 views of 10 VODs\n")
    both = run("count", "--epoch", third, "--epoch", second, "--epoch", third)
    assert both == "counted 10 views of 10 VODs\nheld: 0 views of 0 VODs\n"
    restored.assert_all_persisted()
    decisions = restored.rows("SELECT epoch, decision, vods, views FROM viewer.held_decision ORDER BY decided_at")
    assert decisions == [(first, "drop", 5, 15), (second, "count", 5, 5), (third, "count", 5, 5)]
    assert "--epoch goes with" in run("--epoch", first, status=2)


def test_ids_that_no_counter_should_have(world: World) -> None:
    """The split compares ids as PostgreSQL stores them."""
    ids = ["a b", "ü", "'; DROP TABLE", "{tag}", "x" * 200, "%s"]
    for vod_id in ids:
        world.client.incrby(f"{PREFIX}{vod_id}".encode(), 2)
        world.sent[vod_id] += 2
    copy = copy_of(world)
    world.flush()
    restore(world, copy)
    world.flush()
    assert world.totals() == dict(world.sent)
    assert world.held() == world.sent
