"""Traces of flush runs: a span for the run and one for each step, sent to a real collector, which may be down."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from viewer_pipeline.cli.command_settings import warn_of_ineffective_settings
from viewer_pipeline.definitions import defs
from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline.orchestration.trace_export import THREAD
from viewer_pipeline.orchestration.traces_resource import TRACE_EXPORT
from viewer_pipeline.settings import load_settings
from viewer_pipeline.stack.ports import find_free_port, is_port_taken
from viewer_pipeline_tests.support.otlp_server import attributes, collecting
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

PAGE = Path(__file__).parents[2] / "docs/how-to/traces.md"
STEPS = ["drain_counters", "aggregate_counts", "bulk_upsert", "verify_consistency"]
ERROR = 2  # STATUS_CODE_ERROR

Flush = Callable[[str], dg.ExecuteInProcessResult]


@pytest.fixture
def flush(world: World, monkeypatch: pytest.MonkeyPatch) -> Flush:
    """Run a sweep with this OTEL_EXPORTER_OTLP_ENDPOINT."""

    def run(endpoint: str) -> dg.ExecuteInProcessResult:
        settings = {
            "DATABASE_URL": world.stores.ledger.url,
            "REDIS_URL": world.stores.redis.url,
            "LOG_FORMAT": "json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        with dg.instance_for_test() as instance:
            return defs.resolve_job_def(flush_views.name).execute_in_process(
                run_config=flush_run_config(FlushMode.sweep), instance=instance, raise_on_error=False
            )

    return run


def failures_to_export(text: str) -> list[dict[str, Any]]:
    """Return the lines of traces that were not exported."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "trace_not_exported"]


def test_a_span_for_the_run_and_each_step(world: World, flush: Flush) -> None:
    """With the numbers of the flush; the id of the trace is that of the run."""
    world.send("a", 5)
    world.send("b", 1)
    with collecting() as collector:
        result = flush(collector.url + "/")
        wait_until(lambda: len(collector.spans) == 5, 30, "the trace")
    assert (collector.services, collector.paths) == ({"viewer-pipeline"}, {"/v1/traces"})
    spans = collector.trace(result.run_id)
    root = spans.pop("flush_views")
    assert attributes(root.attributes) == {
        "run_id": result.run_id, "job": "flush_views", "mode": "sweep", "trigger": "by hand",
        "seq": 1, "flushes": 1, "views": 6, "counters": 2, "batches": 1,
    }  # fmt: skip
    assert list(spans) == STEPS
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}
    assert not root.parent_span_id
    times = [time for span in spans.values() for time in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (root.start_time_unix_nano, root.end_time_unix_nano)
    assert ERROR not in {span.status.code for span in (root, *spans.values())}
    world.assert_all_persisted()


def test_the_receiver_of_the_page(world: World, flush: Flush) -> None:
    """It prints the spans that it gets."""
    (receiver,) = re.findall(r"<<'EOF'\n(.*?)^EOF$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    port = find_free_port()
    command = [sys.executable, "-u", "-c", receiver.replace("4318", str(port))]
    world.send("a", 5)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: is_port_taken(port), 60, "the receiver")
        run_id = flush(f"http://localhost:{port}").run_id
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.terminate()
    assert {line.split()[0] for line in lines} == {run_id.replace("-", "")}
    assert [line.split()[1] for line in lines] == [*STEPS, "flush_views"]


def test_a_failed_run_and_its_retries(flush: Flush, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt of a step has a span, with its error, which has no password."""
    monkeypatch.setattr("viewer_pipeline.orchestration.step_errors_and_cancellation.FIRST_RETRY_SECONDS", 0.0)
    attempts = 0

    def fail(*_: object) -> None:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            raise RuntimeError("no such table in postgresql://viewer:Geheim7@host/db")
        raise PostgresUnavailable("no answer")

    monkeypatch.setattr("viewer_pipeline.flush.each_stream.drain", fail)
    with collecting() as collector:
        result = flush(collector.url)
        wait_until(lambda: len(collector.spans) == 3, 30, "the trace")
    assert not result.success
    assert sorted(span.name for span in collector.spans) == ["drain_counters", "drain_counters", "flush_views"]
    assert {span.status.code for span in collector.spans} == {ERROR}
    last = "no such table in postgresql://viewer:***@host/db"
    messages = [span.status.message for span in collector.spans]
    assert messages == ["PostgreSQL is unavailable: no answer", last, last]
    root = collector.trace(result.run_id)["flush_views"]
    assert attributes(root.attributes).keys() == {"run_id", "job", "mode", "trigger"}


def wait_for_failure(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the only line of a trace that was not exported, which has no traceback."""
    output = ""

    def has_failed() -> bool:
        nonlocal output
        output += capfd.readouterr().err
        return bool(failures_to_export(output))

    wait_until(has_failed, 30, "the line")
    (failure,) = failures_to_export(output)
    assert "Traceback" not in output
    return failure


def test_a_collector_that_is_down_fails_no_run(
    world: World, flush: Flush, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    """One line reports it, with the reason; OpenTelemetry has none of its own."""
    log, lines_of_root = logging.getLogger(), BufferingHandler(1000)
    log.addHandler(lines_of_root)
    request.addfinalizer(lambda: log.removeHandler(lines_of_root))
    world.send("a", 5)
    endpoint = f"http://127.0.0.1:{find_free_port()}"
    result = flush(endpoint)
    assert result.success
    world.assert_all_persisted()
    failure = wait_for_failure(capfd)
    assert (failure["run_id"], failure["level"]) == (result.run_id, "warning")
    assert failure["reason"].startswith(f"{endpoint}/v1/traces did not take it: ")
    assert "Connection refused" in failure["reason"]
    assert "opentelemetry" not in {record.name.partition(".")[0] for record in lines_of_root.buffer}


def test_a_collector_that_refuses_fails_no_run(
    world: World, flush: Flush, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line has the status of its response, here because of a token in a wrong form, which stays secret."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Geheim7")
    world.send("a", 5)
    with collecting(status=401) as collector:
        assert flush(collector.url).success
        reason = wait_for_failure(capfd)["reason"].removeprefix(collector.url)
    assert "401" in reason
    assert "Geheim7" not in reason


def test_an_exporter_that_cannot_be_made_fails_no_run(
    world: World, flush: Flush, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line has the reason: a variable of OpenTelemetry that it does not accept."""
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "nobody")
    world.send("a", 5)
    assert flush(f"http://127.0.0.1:{find_free_port()}").success
    assert "'nobody' not found" in wait_for_failure(capfd)["reason"]


def test_a_run_does_not_wait_for_a_collector_without_responses(
    world: World, flush: Flush, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It succeeds while the request is under way."""
    monkeypatch.setattr(f"{TRACE_EXPORT}.EXPORT_SECONDS", 300.0)
    world.send("a", 5)
    with collecting(silent=True) as collector:
        assert flush(collector.url).success
        wait_until(collector.requested.is_set, 30, "the request")
        assert [thread for thread in threading.enumerate() if thread.name == THREAD]
        assert not collector.spans
    world.assert_all_persisted()


def test_an_export_that_does_not_end_is_reported(
    world: World, flush: Flush, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before the process ends, which waits for it no longer."""
    end = threading.Event()
    monkeypatch.setattr(f"{TRACE_EXPORT}._export", lambda *_: end.wait())
    world.send("a", 5)
    assert flush(f"http://127.0.0.1:{find_free_port()}").success
    assert wait_for_failure(capfd)["reason"].endswith("/v1/traces did not take it within 2 s")
    end.set()


def test_spans_that_cannot_be_made_fail_no_run(
    world: World, flush: Flush, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line has the reason, without a password."""

    def fail(*_: object) -> None:
        raise ValueError("postgresql://viewer:Geheim7@host/db: no answer")

    monkeypatch.setattr(f"{TRACE_EXPORT}._spans", fail)
    world.send("a", 5)
    assert flush(f"http://127.0.0.1:{find_free_port()}").success
    (failure,) = failures_to_export(capfd.readouterr().err)
    assert failure["reason"] == "postgresql://viewer:***@host/db: no answer"


def test_without_the_extra(
    world: World, flush: Flush, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Runs succeed; a command warns when it starts."""
    monkeypatch.setitem(sys.modules, TRACE_EXPORT, None)  # as if one of its imports failed
    world.send("a", 5)
    assert flush(f"http://127.0.0.1:{find_free_port()}").success
    settings = load_settings()
    warn_of_ineffective_settings(settings)
    assert "otel_not_installed" not in caplog.text
    monkeypatch.setattr("viewer_pipeline.cli.command_settings.find_spec", lambda _: None)
    warn_of_ineffective_settings(settings)
    assert "otel_not_installed remedy=" in caplog.text


@pytest.mark.parametrize(("endpoint", "imported"), [("", False), ("http://127.0.0.1:4318", True)])
def test_nothing_is_imported_without_the_setting(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, imported: bool
) -> None:
    """By us: redis-py imports metrics. With it, all is imported before a run is forked, and no thread is started."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    code = (
        "import sys, threading, viewer_pipeline.definitions; "
        "print('opentelemetry.sdk.trace' in sys.modules, threading.active_count())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == f"{imported} 1\n"
