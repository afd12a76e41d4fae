"""Which `up` each round of `bench runs` starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from viewer_pipeline.bench import bench_runs
from viewer_pipeline.bench.measured_up import environment_of_up
from viewer_pipeline.settings import COMPLETE_VARIABLE


def test_spawned_and_warm_runs_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round measures one `up` of either kind; the results are not mixed up."""
    started = list[tuple[int, bool]]()

    @contextmanager
    def start_up(*, interval_ms: int, warm_runs: bool) -> Iterator[bool]:
        started.append((interval_ms, warm_runs))
        yield warm_runs

    monkeypatch.setattr(bench_runs, "start_up", start_up)
    monkeypatch.setattr(bench_runs, "observe_up", lambda up, *lengths: (up, *lengths))
    monkeypatch.setattr(bench_runs, "compute_costs", lambda seen: seen)
    monkeypatch.setattr(bench_runs, "summarise", lambda *arguments: arguments)
    progress = list[str]()
    results: Any = bench_runs.bench_runs(
        rounds=2, seconds=9, idle_seconds=4, interval_ms=7000, on_progress=progress.append
    )
    assert started == [(7000, False), (7000, True)] * 2
    assert results == ([(False, 9, 4)] * 2, [(True, 9, 4)] * 2, 7000)
    assert progress[1:3] == ["round 1 of 2: warm runs", "round 2 of 2: spawned runs"]


def test_up_has_default_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the environment and of `.env` are left out, other variables stay."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://host/db")
    monkeypatch.setenv("batch_size", "7")
    monkeypatch.setenv("OTHER", "1")
    environment = environment_of_up(tmp_path, BATCH_INTERVAL_MS="5000")
    assert {"DATABASE_URL", "batch_size"} & environment.keys() == set()
    assert environment["VIEWER_HOME"] == str(tmp_path)
    assert (environment["OTHER"], environment["BATCH_INTERVAL_MS"]) == ("1", "5000")
    assert COMPLETE_VARIABLE in environment
