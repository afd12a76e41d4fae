"""The complete run of `bench flush`: what it calls, and how several runs are summed."""

from __future__ import annotations

import inspect
import os
from dataclasses import astuple
from types import CodeType
from typing import Any

import pytest

from viewer_pipeline.bench import complete_run
from viewer_pipeline.bench.complete_run import CompleteRun, StepSeconds, run_until_flushed
from viewer_pipeline.bench.new_process import call_in_new_process, kept_process
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.orchestration import flush_metadata, flush_ops

CORE = ("viewer_pipeline.flush", "viewer_pipeline.history", "viewer_pipeline.target")


def calls_of_core(code: CodeType, names: dict[str, Any]) -> set[str]:
    """The functions and modules of the core that this code names."""
    values = {name: names.get(name) for name in code.co_names}
    modules = {name: getattr(inspect.getmodule(value), "__name__", "") for name, value in values.items()}
    used = (name for name, value in values.items() if inspect.isfunction(value) or inspect.ismodule(value))
    return {name for name in used if modules[name].startswith(CORE)}


def test_every_step_is_complete() -> None:
    """What a step of a flush calls, the benchmark calls too: it leaves no statement out."""
    ops = (flush_ops.drain_counters, flush_ops.aggregate_counts, flush_ops.bulk_upsert, flush_ops.verify_consistency)
    steps: list[Any] = [op.compute_fn for op in ops]
    called = set[str]().union(*(calls_of_core(step.decorated_fn.__code__, vars(flush_ops)) for step in steps))
    assert called == calls_of_core(complete_run.time_run.__code__, vars(complete_run))
    assert {"drain_each_stream", "upsert_each_stream", "verify_each_stream", "record_run"} <= called
    assert complete_run.TOP_VODS == flush_metadata.TOP_VODS


def test_runs_until_all_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durations and counters are summed; the peak memory is that of the largest run."""
    runs = [CompleteRun(StepSeconds(*[seconds] * 9), seconds, peak, 500) for seconds, peak in ((1.0, 70), (2.0, 60))]
    left: Any = iter(runs)
    monkeypatch.setattr(complete_run, "_start_run", lambda *_: next(left))
    both = run_until_flushed(None, FlushRequest("bench"), 1000)  # type: ignore[arg-type]  # no run is started
    assert (both.counters, both.processes, both.peak_mb, both.cpu_seconds) == (1000, 2, 70, 3)
    assert set(astuple(both.seconds)) == {3}
    assert both.seconds.complete_run == 7 * 3


def test_new_and_kept_processes() -> None:
    """Each call in a process of its own, or all in one; never in this one."""
    new = [call_in_new_process(os.getpid) for _ in range(2)]
    with kept_process() as call:
        kept = [call(os.getpid) for _ in range(2)]
    assert len({os.getpid(), *new, *kept}) == 4
    assert kept[0] == kept[1]
