"""Every row of "A process dies" in docs/flush-protocol.md: the state it leaves, and that the next run completes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from viewer_pipeline.errors import PostgresFailed
from viewer_pipeline.flush import transaction
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger_row_types import Batch
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.transaction import SQL
from viewer_pipeline_tests.support.dying import Died, die
from viewer_pipeline_tests.support.totals_statements import TotalsStatement
from viewer_pipeline_tests.support.world import World

pytestmark = pytest.mark.usefixtures("totals_statement")


def flush_and_die(world: World) -> None:
    """Run a flush that dies."""
    with pytest.raises(Died):
        world.flush()


def heal(world: World, monkeypatch: pytest.MonkeyPatch) -> RunReport:
    """Run the next flush, undisturbed, after more views have arrived."""
    monkeypatch.undo()
    world.send("vod0000", 10)
    world.send("late", 1)
    done = world.flush()
    world.assert_all_persisted()
    return done


@pytest.mark.parametrize("point", ["begin", "changed_set_size_and_oldest", "now"])
def test_a_run_dies_while_draining(world: World, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """Nothing is changed; the next run starts over."""
    world.send_many(7)
    monkeypatch.setattr(RedisStore, point, die)
    flush_and_die(world)
    assert world.seqs() == []
    assert world.counters() == dict(world.sent)
    assert heal(world, monkeypatch).notes.settled_before == 0


def test_a_run_dies_while_aggregating(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is changed; the next run starts over."""
    world.send_many(7)
    drain(world.stores, world.request())
    assert world.seqs() == []
    heal(world, monkeypatch)


@pytest.mark.parametrize("point", ["claim_flush_number", "copy_batches"])
def test_a_run_dies_within_the_transaction(world: World, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """PostgreSQL rolls back, Redis is unchanged."""
    world.send_many(7)
    monkeypatch.setattr(transaction, point, die)
    flush_and_die(world)
    assert (world.seqs(), world.totals()) == ([], {})
    assert world.counters() == dict(world.sent)
    assert heal(world, monkeypatch).notes.settled_before == 0


def test_a_run_dies_within_a_later_transaction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first flush of a run is committed, the second rolled back: only the first is settled."""
    world.send_many(7)
    original, calls = transaction.copy_batches, iter([False, True])

    def die_at_second(connection: psycopg.Connection, batches: list[Batch]) -> None:
        if next(calls):
            raise Died
        original(connection, batches)

    monkeypatch.setattr(transaction, "copy_batches", die_at_second)
    flush_and_die(world)
    assert world.seqs() == [1]
    assert world.totals() == {f"vod{n:04d}": 3 for n in range(4)}
    heal(world, monkeypatch)


def test_a_run_dies_between_commit_and_settling(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sees the flush twice until the next run settles it, before anything else."""
    world.send_many(7)
    monkeypatch.setattr(Settler, "add", die)
    flush_and_die(world)
    assert world.seqs() == [1]
    assert world.counters() == dict(world.sent)
    assert world.marker() == Marker(0, 0, 0)
    assert heal(world, monkeypatch).notes.settled_before == 2


def test_a_run_dies_after_its_last_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing new to flush: the next run settles all the same."""
    world.send_many(2)
    monkeypatch.setattr(Settler, "add", die)
    flush_and_die(world)
    monkeypatch.undo()
    done = world.flush()
    assert (done.counters, done.notes.settled_before) == (0, 1)
    world.assert_all_persisted()


def test_a_run_dies_before_commit(
    world: World, monkeypatch: pytest.MonkeyPatch, totals_statement: TotalsStatement
) -> None:
    """Everything is written but not committed: PostgreSQL rolls it all back."""
    world.send_many(3)
    query = SQL[totals_statement.query].replace("RETURNING", "RETURNING 1 / (t.view_count - t.view_count),")
    monkeypatch.setitem(SQL, totals_statement.query, query)
    with pytest.raises(PostgresFailed, match="division by zero"):
        world.flush()
    assert (world.seqs(), world.totals()) == ([], {})
    heal(world, monkeypatch)


@pytest.mark.parametrize("settled", [1, 2, 3])
def test_a_run_dies_while_settling(world: World, monkeypatch: pytest.MonkeyPatch, settled: int) -> None:
    """The marker stands at the last batch that was subtracted; the next run continues from there."""
    world.send_many(8)
    original = RedisStore.settle

    def settle_part(self: RedisStore, marker: Marker, batches: Sequence[Any]) -> Any:
        original(self, marker, batches[:settled])
        raise Died

    monkeypatch.setattr(RedisStore, "settle", settle_part)
    with pytest.raises(Died):
        world.flush(flush_max_counters=8)
    assert world.marker() == Marker(1, settled, 4)
    assert len(world.counters()) == 8 - 2 * settled
    assert heal(world, monkeypatch).notes.settled_before == 4 - settled


def test_a_run_dies_before_verifying(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is done; the next run has nothing to settle."""
    world.send_many(7)
    world.flush()
    world.assert_all_persisted()
    assert heal(world, monkeypatch).notes.settled_before == 0


def test_several_runs_die(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that each die after their first commit still carry every view over, once."""
    for _ in range(5):
        world.send_many(7)
        monkeypatch.setattr(Settler, "add", die)
        flush_and_die(world)
        monkeypatch.undo()
    heal(world, monkeypatch)
