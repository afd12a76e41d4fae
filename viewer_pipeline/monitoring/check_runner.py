"""Runs checks side by side, each within its time limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.monitoring.bounded_probe import BoundedProbe, ProbeResult

HEALTH_SECONDS = 0.8  # /health answers within a second, even if a server hangs


@dataclass(frozen=True)
class ProbedChecks:
    """One probe, and the checks that it decides.

    Attributes:
        names: the checks. The probe may leave out those that do not apply.
        probe: reads once and returns the results.
        seconds: its time limit. If it fails or exceeds the limit, every check of `names` is unhealthy.
        needs: checks that are a precondition. If one of them is unhealthy and the probe fails, `names` are unknown.
        remedy: what to do if the probe fails with an error that has no remedy of its own.
        find_better_remedy: returns what to do whatever the error is; empty where that depends on the error.

    """

    names: tuple[str, ...]
    probe: Callable[[], list[CheckResult]]
    seconds: float = HEALTH_SECONDS
    needs: tuple[str, ...] = ()
    remedy: str = ""
    find_better_remedy: Callable[[], str] = str

    def results_of_failed_probe(
        self, failure: ProbeResult[list[CheckResult]], all_unhealthy_checks: set[str]
    ) -> list[CheckResult]:
        """Return the results of a probe that failed; `all_unhealthy_checks` are those of the whole run."""
        if cause := next((name for name in self.needs if name in all_unhealthy_checks), ""):
            message, remedy = f"not checked, because {cause} is unhealthy", f"see the check {cause}"
            return [CheckResult(name, "unknown", message, remedy=remedy) for name in self.names]
        remedy = self.find_better_remedy() or failure.remedy or self.remedy
        return [CheckResult(name, "unhealthy", failure.error, remedy=remedy) for name in self.names]


class CheckRunner:
    """All checks, each on a thread of its own."""

    def __init__(
        self,
        checks: Sequence[ProbedChecks],
        relate: Callable[[Sequence[CheckResult]], list[CheckResult]] = list,
    ) -> None:
        """`relate`: changes results that depend on those of other probes."""
        self.checks = tuple(checks)
        self._relate = relate
        self._probes = [BoundedProbe("/".join(check.names), check.probe) for check in checks]

    def run_in_parallel(self, interval_seconds: float = 0.0) -> list[CheckResult]:
        """Run all checks side by side, but those with a younger result; return within the longest time limit.

        A probe with an unhealthy result runs again at any age, so that a recovery is seen at once.
        """
        for probe in self._probes:
            probe.start_if_due(0.0 if _has_failed(probe.last_result) else interval_seconds)
        outcomes = [
            (check, probe.wait_for_result(check.seconds))
            for check, probe in zip(self.checks, self._probes, strict=True)
        ]
        results = [result for _, outcome in outcomes for result in outcome.value or ()]
        failures = [(check, outcome) for check, outcome in outcomes if outcome.value is None]
        unhealthy = {result.name for result in results if result.status == "unhealthy"}
        unhealthy |= {name for check, _ in failures for name in check.names}
        results += [
            result for check, failure in failures for result in check.results_of_failed_probe(failure, unhealthy)
        ]
        return self._relate(results)


def _has_failed(result: ProbeResult[list[CheckResult]] | None) -> bool:
    return result is not None and (result.value is None or any(check.status == "unhealthy" for check in result.value))
