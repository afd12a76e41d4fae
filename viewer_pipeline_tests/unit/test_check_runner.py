"""Which checks run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from viewer_pipeline.checks import CheckResult, Status
from viewer_pipeline.errors import RedisUnavailable
from viewer_pipeline.monitoring import bounded_probe
from viewer_pipeline.monitoring.check_runner import CheckRunner, ProbedChecks


def test_unhealthy_checks_run_again_whatever_their_age_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those whose probe failed; once healthy, they are as old as all others."""
    monkeypatch.setattr(bounded_probe, "MIN_INTERVAL_SECONDS", 0)
    statuses: dict[str, Status] = {"redis": "healthy", "postgres": "degraded", "marker": "unhealthy"}
    calls = Counter[str]()

    def probe(name: str) -> Callable[[], list[CheckResult]]:
        def read() -> list[CheckResult]:
            calls[name] += 1
            if name not in statuses:
                raise RedisUnavailable("refused")
            return [CheckResult(name, statuses[name], "")]

        return read

    runner = CheckRunner([ProbedChecks((name,), probe(name), 30) for name in (*statuses, "freshness")])
    for _ in range(3):
        results = runner.run_in_parallel(3600)
    assert calls == {"redis": 1, "postgres": 1, "marker": 3, "freshness": 3}
    assert {result.name: result.status for result in results} == statuses | {"freshness": "unhealthy"}
    statuses |= {"marker": "healthy", "freshness": "healthy"}
    for _ in range(3):
        results = runner.run_in_parallel(3600)
    assert calls == {"redis": 1, "postgres": 1, "marker": 4, "freshness": 4}
    assert {result.status for result in results} == {"healthy", "degraded"}
