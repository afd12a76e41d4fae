"""One line in the log for each change of a check's status."""

from __future__ import annotations

import logging

import pytest

from viewer_pipeline.checks import CheckResult, Status
from viewer_pipeline.monitoring.check_runner import CheckRunner
from viewer_pipeline.monitoring.health_change_log import HealthChangeLog


def test_status_changes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """No line for a check that begins healthy, nor for a message that changes while the status stays."""
    watch = HealthChangeLog(CheckRunner([]), lambda: False)
    caplog.set_level(logging.INFO, "viewer_pipeline.health")
    steps: list[tuple[Status, str]] = [
        ("healthy", "answers in 1 ms"),
        ("unhealthy", "no answer for 1 s"),
        ("unhealthy", "no answer for 11 s"),
        ("healthy", "answers in 2 ms"),
        ("healthy", "answers in 3 ms"),
    ]
    for status, message in steps:
        watch.log_changes([CheckResult("redis", status, message), CheckResult("postgres", "healthy", "answers")])
    assert [(line.levelname, line.getMessage()) for line in caplog.records] == [
        ("ERROR", 'health_changed checks=redis status=unhealthy message="no answer for 1 s"'),
        ("INFO", 'health_changed checks=redis status=healthy message="answers in 2 ms"'),
    ]


def test_one_line_for_one_cause(caplog: pytest.LogCaptureFixture) -> None:
    """Checks with the same message share a line; what depends on a failed check is shown with LOG_LEVEL=debug only."""
    watch = HealthChangeLog(CheckRunner([]), lambda: False)
    caplog.set_level(logging.DEBUG, "viewer_pipeline.health")
    watch.log_changes([CheckResult("sensor", "degraded", "not yet"), CheckResult("sweep", "degraded", "not yet")])
    watch.log_changes([CheckResult("sensor", "healthy", "ticks"), CheckResult("sweep", "unknown", "not checked")])
    watch.log_changes([CheckResult("sensor", "unknown", "not checked"), CheckResult("sweep", "degraded", "late")])
    watch.log_changes([CheckResult("sensor", "healthy", "ticks"), CheckResult("sweep", "healthy", "ticks")])
    assert [(line.levelname, line.getMessage().partition(" ")[2]) for line in caplog.records] == [
        ("WARNING", 'checks="sensor, sweep" status=degraded message="not yet"'),
        ("INFO", "checks=sensor status=healthy message=ticks"),
        ("DEBUG", 'checks=sweep status=unknown message="not checked"'),
        ("DEBUG", 'checks=sensor status=unknown message="not checked"'),
        ("WARNING", "checks=sweep status=degraded message=late"),
        ("DEBUG", "checks=sensor status=healthy message=ticks"),
        ("INFO", "checks=sweep status=healthy message=ticks"),
    ]


def test_start_and_stop_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Dagster follows the worker in a start of `up`; and a worker that stops is not subscribed, as intended."""
    HealthChangeLog(CheckRunner([]), lambda: True).log_changes([CheckResult("subscriber", "degraded", "stopping")])
    assert caplog.records == []
