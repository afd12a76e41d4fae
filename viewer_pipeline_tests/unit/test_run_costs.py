"""What `bench runs` computes from what it read."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest

from viewer_pipeline.bench.measured_up import Usage
from viewer_pipeline.bench.result_tables import RUN_COSTS, print_runs_table
from viewer_pipeline.bench.run_costs import Observations, RunCosts, compute_costs, goals_at, percentile, summarise

OBSERVATIONS = Observations(
    until_idle=Usage(at=30, cpu_seconds=12, sessions=100, runs=2),
    idle=Usage(at=10, cpu_seconds=0.5, sessions=10, runs=0),
    busy=Usage(at=20, cpu_seconds=9, sessions=60, runs=4),
    first_flush_seconds=8,
    warm_up_seconds=20,
    pss_mb=500,
    worker_pss_mb=60,
    tick_to_success=[2, 1, 3],
    publish_to_persisted=[4, 5],
)
SPAWNED = compute_costs(OBSERVATIONS)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([7], 0.95, 7), ([3, 1, 2], 0.5, 2), ([4, 1, 2, 3], 0.5, 2.5), (range(21), 0.95, 19), ([0, 10], 0.95, 9.5)],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    """Between the two nearest values, in any order."""
    assert percentile(values, share) == pytest.approx(expected)


def test_costs_of_a_run_are_those_above_idle() -> None:
    """CPU and sessions of the idle part are subtracted by time; the start has no runs and no idling in it."""
    expected = {
        "runs": 4,
        "cpu_seconds_per_run": 2,
        "tick_to_success_p50": 2,
        "tick_to_success_p95": 2.9,
        "publish_to_persisted_p50": 4.5,
        "publish_to_persisted_p95": 4.95,
        "idle_cores": 0.05,
        "busy_cores": 0.45,
        "sessions_per_run": 10,
        "sessions_per_idle_second": 1,
        "pss_mb": 500,
        "worker_pss_mb": 60,
        "start_cpu_seconds": 7,
        "start_to_first_flush_seconds": 8,
    }
    assert asdict(SPAWNED) == pytest.approx(expected)


def test_medians_over_rounds() -> None:
    """The ratio is the median over pairs, not the quotient of the medians."""
    spawned = [replace(SPAWNED, cpu_seconds_per_run=seconds) for seconds in (2, 4, 8)]
    warm = [replace(SPAWNED, cpu_seconds_per_run=seconds) for seconds in (1, 1, 4)]
    stats = summarise(spawned, warm, 5000)
    assert (stats.rounds, stats.spawned_rounds, stats.warm_rounds) == (3, spawned, warm)
    assert (stats.spawned.cpu_seconds_per_run, stats.warm.cpu_seconds_per_run, stats.cpu_ratio) == (4, 1, 0.5)


def test_goals_are_those_of_warm_runs() -> None:
    """A value at its goal meets it, one above it does not; spawned runs have no goals."""
    goals = goals_at(5000)
    reached = {name: goal for name, goal in goals.items() if name != "cpu_ratio"}
    warm, spawned = replace(SPAWNED, **reached), replace(SPAWNED, cpu_seconds_per_run=0.4 * 8)
    assert summarise([spawned], [warm], 5000).missed_goals == []
    assert summarise([spawned], [replace(warm, idle_cores=0.041)], 5000).missed_goals == ["idle_cores"]
    assert summarise([replace(spawned, cpu_seconds_per_run=3)], [warm], 5000).missed_goals == ["cpu_ratio"]


def test_a_longer_interval_delays_views() -> None:
    """Their goals follow it, the others do not."""
    short, long = goals_at(5000), goals_at(30_000)
    assert (short["publish_to_persisted_p50"], short["publish_to_persisted_p95"]) == (3.2, 5.8)
    assert (long["publish_to_persisted_p50"], long["publish_to_persisted_p95"]) == (15.7, 30.8)
    assert {name for name in short if short[name] != long[name]} == {
        "publish_to_persisted_p50",
        "publish_to_persisted_p95",
    }


def test_the_table_has_every_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """With its goal, and whether warm runs meet it."""
    assert list(RUN_COSTS) == [field.name for field in fields(RunCosts)]
    print_runs_table(summarise([SPAWNED], [replace(SPAWNED, cpu_seconds_per_run=0.5)], 5000))
    lines = capsys.readouterr().out.splitlines()
    rows = {cells[1]: cells[2:6] for line in lines if len(cells := [cell.strip() for cell in line.split("│")]) == 7}
    assert rows["CPU s per run, above idle"] == ["2.00", "0.50", "0.40", "missed"]
    assert rows["PSS of the worker MB, idle"] == ["60", "60", "70", "met"]
    assert rows["CPU s to start `up`"] == ["7.0", "7.0", "", ""]
    assert rows["CPU of a warm run / of a spawned run"] == ["", "0.250", "0.125", "missed"]
