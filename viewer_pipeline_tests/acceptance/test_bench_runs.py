"""`viewer-pipeline bench runs`: what runs cost, on an `up` of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from viewer_pipeline.bench.measured_up import wait_for
from viewer_pipeline.errors import EmbeddedServerError
from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline_tests.acceptance.test_cli import Environment, environment, json_of
from viewer_pipeline_tests.support.waiting import processes_with
from viewer_pipeline_tests.support.warm import run

__all__ = ["environment"]

POSITIVE = [
    "runs",
    "tick_to_success_p50",
    "tick_to_success_p95",
    "publish_to_persisted_p50",
    "publish_to_persisted_p95",
    "busy_cores",
    "pss_mb",
    "worker_pss_mb",
    "start_cpu_seconds",
    "start_to_first_flush_seconds",
]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bench_runs(environment: Environment, tmp_path: Path) -> None:
    """On servers of its own, whatever the settings are; afterwards no process and no file is left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    settings = {"DATABASE_URL": "postgresql://127.0.0.1:1/none", "PUBSUB_MODE": "announce", "TMPDIR": str(temporary)}
    lengths = ["--rounds", "1", "--seconds", "1", "--idle-seconds", "1"]
    stats = json_of(run({**environment, **settings}, "bench", "runs", *lengths, "--json"))
    assert (stats["rounds"], stats["interval_ms"]) == (1, 5000)
    for kind in ("spawned", "warm"):
        assert stats[f"{kind}_rounds"] == [stats[kind]]
        assert {name: stats[kind][name] for name in POSITIVE if stats[kind][name] <= 0} == {}
        assert stats[kind]["worker_pss_mb"] < stats[kind]["pss_mb"]
    assert set(stats["missed_goals"]) <= set(stats["goals"])
    assert list(temporary.iterdir()) == []
    assert processes_with(temporary) == {}


def test_an_up_that_ends_is_reported(tmp_path: Path) -> None:
    """With the end of its log, at once."""
    process = ManagedProcess("up", [sys.executable, "-c", "print('no space left')"], log=tmp_path / "log")
    process.start()
    try:
        with pytest.raises(EmbeddedServerError, match=r"`up` without a subscriber.*\nno space left"):
            wait_for(process, lambda: False, "a subscriber")
    finally:
        process.stop()
