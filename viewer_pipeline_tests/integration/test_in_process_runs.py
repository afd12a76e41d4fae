"""Runs in the process of a command: what it prints of one that fails."""

from __future__ import annotations

from typing import Any

import pytest

from viewer_pipeline.cli.in_process_runs import echo_run_result, run_flush
from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.orchestration.flush_ops import FlushMode
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld

URL = "postgresql://viewer:s3cret@db/views"


@pytest.fixture(params=[PostgresUnavailable(f"{URL}: no answer"), RuntimeError(f"no idea, with {URL}")], ids=type)
def error(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Exception:
    """An error of the first step: one of ours, whose text is written for operators, and one that nobody foresaw."""
    error: Exception = request.param

    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("viewer_pipeline.flush.each_stream.drain", fail)
    return error


def test_the_error_of_a_failed_run(
    error: Exception, dagster: DagsterWorld, dagster_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, without a password; a stack trace only where the sentence may not say enough."""
    result = run_flush(dagster.instance, dagster_settings, FlushMode.sweep, trigger="test")
    with pytest.raises(SystemExit):
        echo_run_result(result, "", as_json=False)
    output = capsys.readouterr()
    first, *trace, last = output.err.splitlines()
    assert (output.out, first.startswith("error: ")) == ("", True)
    assert last == f"run {result.run_id} failed; its events are in the Dagster UI"
    assert "s3cret" not in output.err
    if isinstance(error, PostgresUnavailable):
        assert first == "error: PostgreSQL is unavailable: postgresql://viewer:***@db/views: no answer"
        assert trace == []
    else:
        assert first == "error: RuntimeError: no idea, with postgresql://viewer:***@db/views"
        assert "Stack Trace:" in trace
