"""Sums for metrics, and a bound on rejected messages, on a real PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from viewer_pipeline.flush.rejects import Reject, record_message_rejects, record_new_rejects
from viewer_pipeline.flush.run_metrics import (
    BOUNDS,
    RunMetric,
    add_run_metrics,
    buckets_of,
    flushes_since,
    read_position,
    read_run_metrics,
)
from viewer_pipeline_tests.support.world import World


def rejects(numbers: range, reason: str = "not JSON") -> list[Reject]:
    """Return rejected messages that differ from each other."""
    return [Reject.of("message", b"channel", b"%d" % number, reason, occasion=str(number)) for number in numbers]


def test_run_metrics_are_added(world: World) -> None:
    """Over runs, by mode and outcome, each duration in its bucket; exact where drift leaves int64."""
    first = RunMetric.of_flushes("sweep", [0.01, 0.02, 99.0], 2**63)
    second = RunMetric.of_flushes("sweep", [0.02], 5)
    with world.stores.ledger.connect() as connection:
        add_run_metrics(connection, [first, RunMetric.of_events("sweep", "superseded", 2)])
        add_run_metrics(connection, [RunMetric.of_events("changed", "failed", 1), second])
        recorded = read_run_metrics(connection)
    buckets = (1, 2, *[0] * (len(BOUNDS) - 2), 1)
    assert recorded == [
        RunMetric("changed", "failed", 1, 0.0, (0,) * (len(BOUNDS) + 1), 0),
        RunMetric("sweep", "committed", 4, pytest.approx(99.05), buckets, 2**63 + 5),  # type: ignore[arg-type]  # equals a float
        RunMetric("sweep", "superseded", 2, 0.0, (0,) * (len(BOUNDS) + 1), 0),
    ]


def test_idle_run_writes_nothing(world: World) -> None:
    """An idle run leaves no row."""
    with world.stores.ledger.connect() as connection:
        add_run_metrics(
            connection, [RunMetric.of_flushes("sweep", [], 0), RunMetric.of_events("sweep", "superseded", 0)]
        )
        assert read_run_metrics(connection) == []


def test_a_bound_belongs_to_the_bucket_below_it() -> None:
    """As Prometheus has it: at most the bound."""
    assert buckets_of([BOUNDS[0]])[0] == 1
    assert buckets_of([BOUNDS[-1], BOUNDS[-1] + 1])[-2:] == (1, 1)


def test_runs_that_end_together_all_add(world: World) -> None:
    """In any order of rows, without a deadlock and without a lost sum."""
    metrics = [RunMetric.of_events(mode, "superseded", 1) for mode in ("a", "b", "c")]

    def record(number: int) -> None:
        with world.stores.ledger.connect() as connection:
            add_run_metrics(connection, metrics[:: 1 if number % 2 else -1])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record, range(40)))
    with world.stores.ledger.connect() as connection:
        assert [metric.count for metric in read_run_metrics(connection)] == [40, 40, 40]


def test_flushes_since_counts_each_flush_once(world: World) -> None:
    """By mode; read on from the position of the last reading, nothing comes twice."""
    started = datetime.now(UTC)
    world.send_many(6)
    world.flush()
    world.send("a", 2**62, announce=True)
    world.send("b", 2**63 - 1, announce=True)
    world.flush("changed")
    with world.stores.ledger.connect() as connection:
        position, _ = read_position(connection, "{}")
        changed, sweep = flushes_since(connection, "{}", position)
        assert flushes_since(connection, "{[0,2]}", position) == [changed]
        assert flushes_since(connection, position, position) == []
    assert changed[:4] == ("changed", 1, 2, 2**62 + 2**63 - 1)
    assert sweep[:4] == ("sweep", 2, 6, 18)
    assert started < sweep.last_committed_at < changed.last_committed_at


def test_rejected_messages_are_bounded_for_each_reason(world: World) -> None:
    """The first ones stay, over any number of workers and restarts; another reason has a bound of its own."""
    with world.stores.ledger.connect() as connection:
        assert record_message_rejects(connection, rejects(range(3)), max_rows_per_reason=5) == 3
        assert record_message_rejects(connection, rejects(range(9)), max_rows_per_reason=5) == 2
        assert record_message_rejects(connection, rejects(range(9, 20)), max_rows_per_reason=5) == 0
        assert record_message_rejects(connection, rejects(range(20, 24), "other"), max_rows_per_reason=5) == 4
        assert record_message_rejects(connection, [], max_rows_per_reason=5) == 0
    kept = world.rows("SELECT value::int FROM viewer.rejected WHERE reason = 'not JSON' ORDER BY 1")
    assert kept == [(0,), (1,), (2,), (3,), (4,)]


def test_a_message_that_is_seen_twice_takes_one_place(world: World) -> None:
    """Within one call, and over several."""
    same = rejects(range(1))
    with world.stores.ledger.connect() as connection:
        assert record_message_rejects(connection, same * 5 + rejects(range(1, 3)), max_rows_per_reason=3) == 3
        assert record_message_rejects(connection, same, max_rows_per_reason=9) == 0


def test_other_sources_take_no_place_of_messages(world: World) -> None:
    """Rejected counters with the same reason are a matter of their own."""
    of_counters = [Reject.of("counter", b"%d" % number, b"", "not JSON") for number in range(9)]
    with world.stores.ledger.connect() as connection:
        record_new_rejects(connection, of_counters)
        assert record_message_rejects(connection, rejects(range(3)), max_rows_per_reason=2) == 2


def test_workers_that_record_together_keep_the_bound(world: World) -> None:
    """Eight of them, each with rejects of its own."""

    def record(worker: int) -> int:
        with world.stores.ledger.connect() as connection:
            return record_message_rejects(
                connection, rejects(range(worker * 10, worker * 10 + 10)), max_rows_per_reason=15
            )

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(record, range(8))) == 15
    assert world.rows("SELECT count(*) FROM viewer.rejected") == [(15,)]
