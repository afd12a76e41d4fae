"""One line per change of a check's state."""

from __future__ import annotations

import logging

import pytest

from viewer_pipeline.monitoring.checks import Checks, Result
from viewer_pipeline.monitoring.health_watch import HealthWatch


def test_changes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not what is healthy from the start, nor a sentence that changes while the state stays."""
    watch = HealthWatch(Checks([]), lambda: False)
    caplog.set_level(logging.INFO)
    for state, said in (
        ("healthy", "answers in 1 ms"),
        ("unhealthy", "no answer for 1 s"),
        ("unhealthy", "no answer for 11 s"),
        ("healthy", "answers in 2 ms"),
        ("healthy", "answers in 3 ms"),
    ):
        watch.look({"redis": Result(state, said), "postgres": Result("healthy", "answers")})  # type: ignore[arg-type]
    assert [(line.levelname, line.getMessage()) for line in caplog.records] == [
        ("ERROR", 'health check=redis state=unhealthy said="no answer for 1 s"'),
        ("INFO", 'health check=redis state=healthy said="answers in 2 ms"'),
    ]


def test_a_stop_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """That nobody listens while the worker stops is meant so."""
    HealthWatch(Checks([]), lambda: True).look({"subscriber": Result("degraded", "stopping")})
    assert caplog.records == []
