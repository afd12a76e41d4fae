"""`viewer-pipeline bench flush`, on servers of its own."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

from viewer_pipeline_tests.acceptance.test_cli import Environment, environment, json_of
from viewer_pipeline_tests.support.warm import run

__all__ = ["environment"]

PARTS_OF_STEPS = {"commit", "settle"}


@pytest.fixture(name="stats")
def stats_of_every_mode(environment: Environment) -> list[dict[str, Any]]:
    """Those of each mode, one run each."""
    words = ["--counters", "40", "--runs", "1"]
    result: list[dict[str, Any]] = json_of(run(environment, "bench", "flush", *words, "--json"))["flush"]
    return result


def test_results(stats: list[dict[str, Any]]) -> None:
    """The modes in order; whatever was measured is plausible, and both references are there."""
    assert [(row["mode"], row["counters"], row["runs"], row["processes"]) for row in stats] == [
        (mode, 40, 1, 1) for mode in ("sweep", "changed")
    ]
    for row in stats:
        steps = {name: seconds for name, seconds in row["steps"].items() if name not in PARTS_OF_STEPS}
        assert {name for name, seconds in row["steps"].items() if seconds <= 0} == set()
        assert sum(steps.values()) == pytest.approx(row["complete_run"])
        assert row["flush"] == pytest.approx(steps["drain"] + steps["aggregate"] + steps["bulk_upsert"])
        assert row["upsert_ratio"] == pytest.approx(row["upsert_raw"] / row["flush"])
        assert row["merge_ratio"] == pytest.approx(row["merge_raw"] / row["flush"])
        assert row["merge_statement"] in ("MERGE", "UPDATE")
        for writer in ("", "upsert_", "merge_"):
            assert 50 < row[f"{writer}wal_bytes_per_counter"] < 50_000  # a row has 40 bytes, its page 8192
        assert row["ledger_bytes_per_counter"] > 30
        assert row["totals_bytes_per_counter"] > 60
        assert min(row["process_cpu"], row["redis_cpu"]) > 0
        assert row["peak_mb"] > 10
        times = row["locks_and_double_counts"]
        assert 0 < times["script_p50_ms"] <= times["script_p99_ms"] <= times["script_max_ms"]
    if sys.platform == "linux":
        assert sum(row["postgres_cpu"] for row in stats) > 0


def test_tables(environment: Environment) -> None:
    """A row for each size in each table; a run flushes no more counters than the settings allow."""
    limited = {**environment, "RUN_MAX_COUNTERS": "500"}
    words = ["--keep-process", "--mode", "sweep", "--counters", "40", "--counters", "1300", "--runs", "1"]
    done = run(limited, "bench", "flush", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sweep 40 ") == done.stdout.count("sweep 1,300 ") == 8
    assert "COPY + ON CONFLICT s" in done.stdout
    runs = re.search(r"sweep 1,300 +│ +([1-9]) │", done.stdout)
    assert runs is not None
    assert int(runs[1]) > 1
