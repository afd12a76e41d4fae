"""Alerts for failed runs: the log line, and the post to a webhook."""

from __future__ import annotations

import socket
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from viewer_pipeline.definitions import defs
from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.orchestration import webhook
from viewer_pipeline.orchestration.failed_run_alerts import run_failure
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.webhook import post_json_or_error
from viewer_pipeline.settings import load_settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld, by_hand, error_of
from viewer_pipeline_tests.support.webhook_server import listening


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without a pause."""
    monkeypatch.setattr(webhook, "BACKOFF_SECONDS", 0)


def unreachable(*_: Any) -> Any:
    """Fail as a step does whose server is unreachable."""
    raise PostgresUnavailable("postgresql://viewer:s3cret@db/views: no answer")


def failed_run(dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch) -> dg.ExecuteInProcessResult:
    """Run a flush whose first step fails, with a password in the error."""
    monkeypatch.setattr("viewer_pipeline.flush.each_stream.drain", unreachable)
    job = defs.resolve_job_def(flush_views.name)
    tags = {"viewer/trigger": "schedule: found counters"}
    return job.execute_in_process(instance=dagster.instance, tags=tags, raise_on_error=False)


def alert(dagster: DagsterWorld, result: dg.ExecuteInProcessResult) -> None:
    """Evaluate the sensor for this failure, as Dagster's daemon does."""
    run = dagster.instance.get_run_by_id(result.run_id)
    assert run is not None
    context = dg.build_run_status_sensor_context(
        sensor_name="run_failure",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=dagster.instance,
        dagster_run=run,
    )
    run_failure(context.for_run_failure(), settings=load_settings())


def test_post_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts outside are reached as `http_proxy` tells."""
    with listening() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert post_json_or_error("http://hooks.invalid/T0K3N", {"text": "hello"}) == ""
    (posted,) = proxy.posted
    assert (posted["path"], posted["text"]) == ("http://hooks.invalid/T0K3N", "hello")


def test_a_failed_run_is_logged_and_posted(
    dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line, and as JSON with a text that chats show: job, run, trigger and reason; no password."""
    result = failed_run(dagster, monkeypatch)
    with listening() as hook:
        monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
        alert(dagster, result)
    (line,) = [line for line in caplog.messages if line.startswith("run_failed ")]
    reason = "PostgreSQL is unavailable: postgresql://viewer:***@db/views: no answer"
    assert f'job=flush_views run_id={result.run_id} trigger="schedule: found counters" reason="{reason}"' in line
    (posted,) = hook.posted
    assert posted.pop("timestamp").endswith("Z")
    assert posted == {
        "text": f"Viewer Pipeline: run {result.run_id[:8]} of flush_views failed: {reason}",
        "event": "run_failed",
        "job": "flush_views",
        "run_id": result.run_id,
        "trigger": "schedule: found counters",
        "reason": reason,
        "path": "/hooks/T0K3N",
        "type": "application/json",
    }


class Daemon:
    """Evaluates the sensor as Dagster's daemon does: from its cursor."""

    def __init__(self, dagster: DagsterWorld) -> None:
        self.instance = dagster.instance
        self.cursor: str | None = None
        self.tick()

    def tick(self) -> None:
        """Evaluate it once."""
        resources = {"settings": load_settings()}
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor, resources=resources) as context:
            self.cursor = run_failure.evaluate_tick(context).cursor


def test_runs_started_by_hand_are_posted(dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """And backfills: the asset is named, not the job that Dagster makes up."""
    daemon = Daemon(dagster)
    monkeypatch.setattr("viewer_pipeline.flush.each_stream.drain", unreachable)
    with listening() as hook:
        monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
        assert not by_hand(dagster.instance, tags={"dagster/backfill": "abcdefgh"}, ok=False).success
        daemon.tick()
        daemon.tick()
    assert [(alert["job"], alert["trigger"]) for alert in hook.posted] == [("view_counts", "backfill abcdefgh")]


def test_a_run_without_usable_settings_is_posted_with_the_reason(
    dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails before its first step, as it opens the servers."""
    daemon = Daemon(dagster)
    with listening() as hook:
        monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
        with monkeypatch.context() as patch:
            patch.delenv("REDIS_URL")
            assert not by_hand(dagster.instance, ok=False).success
        daemon.tick()
    (posted,) = hook.posted
    assert posted["reason"].endswith(", and REDIS_URL is not set")


def test_a_run_that_failed_before_its_first_step_is_posted(
    dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is known to retention as ours from then on. Runs of other code locations are others' business."""
    daemon = Daemon(dagster)
    instance, job = dagster.instance, defs.resolve_implicit_global_asset_job_def()
    theirs = RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("127.0.0.1", 1, location_name="theirs"), "r")
    never, other = (
        instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTING, remote_job_origin=origin)
        for origin in (None, RemoteJobOrigin(theirs, job.name))
    )
    with listening() as hook:
        monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
        for run in (other, never):
            instance.report_run_failed(run, "it took too long to start")
        daemon.tick()
    (posted,) = hook.posted
    assert (posted["run_id"], posted["job"], posted["reason"]) == (
        never.run_id,
        "all assets",
        "it took too long to start",
    )
    tagged = instance.get_runs(dg.RunsFilter(tags={"viewer/trigger": "by hand"}))
    assert [run.run_id for run in tagged] == [never.run_id]


def test_a_run_that_cannot_be_launched_is_posted_with_the_reason(
    dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception of the launcher: Dagster records it in an event before the failure."""
    daemon = Daemon(dagster)
    instance, job = dagster.instance, defs.resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTING)
    with listening() as hook:
        monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
        data = EngineEventData.engine_error(
            error_of("viewer_pipeline.errors.Broken: redis://:s3cret@broker: refused\n")
        )
        instance.report_engine_event("cannot be launched", run, data)
        instance.report_run_failed(run)
        daemon.tick()
    (posted,) = hook.posted
    assert posted["reason"] == "redis://:***@broker: refused"


def test_an_alert_that_cannot_be_delivered_fails_nothing(
    dagster: DagsterWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A log line reports that, without the key in the address."""
    result = failed_run(dagster, monkeypatch)
    with listening(403) as hook:
        monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
        alert(dagster, result)
    lines = caplog.text
    assert f'alert_not_delivered run_id={result.run_id} reason="127.0.0.1: status 403"' in lines
    assert "T0K3N" not in lines
    assert len(hook.posted) == 1


@pytest.mark.parametrize(
    ("statuses", "posted", "reason"),
    [
        ([204], 1, ""),
        ([500, 429, 200], 3, ""),
        ([503], 3, "127.0.0.1: status 503"),
        ([404], 1, "127.0.0.1: status 404"),
        ([302], 1, "127.0.0.1: status 302"),
    ],
)
def test_a_post_is_retried_if_that_can_help(statuses: list[int], posted: int, reason: str) -> None:
    """After 5xx and 429, three attempts in all; redirects are not followed."""
    with listening(*statuses) as hook:
        assert post_json_or_error(hook.url, {"text": "x"}) == reason
    assert len(hook.posted) == posted


def test_a_post_to_a_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt has an end."""
    monkeypatch.setattr(webhook, "ATTEMPT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/T0K3N"
        assert post_json_or_error(url, {}) == "127.0.0.1: TimeoutError"
    assert post_json_or_error(url, {}) == "127.0.0.1: ConnectionRefusedError"


def test_a_response_without_end_is_not_read() -> None:
    """The status is all that counts: the body comes until the end of the test."""
    with listening(200, endless=True) as hook:
        assert post_json_or_error(hook.url, {"text": "x"}) == ""


def test_a_post_is_retried_whatever_the_form_of_its_url() -> None:
    """Also where it is not the normal form."""
    with listening(503, 200) as hook:
        assert post_json_or_error(hook.url.replace("/hooks", "/%7Ehooks"), {"text": "x"}) == ""
    assert len(hook.posted) == 2
