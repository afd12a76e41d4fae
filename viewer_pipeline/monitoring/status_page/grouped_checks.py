"""The checks as the page lists them: worst first, and one line for all that report the same. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from viewer_pipeline.checks import STATUSES, CheckResult, Status
from viewer_pipeline.monitoring.dagster_rules import DAEMONS, daemon_check_name

DAEMON_CHECKS = frozenset(map(daemon_check_name, DAEMONS))
DAEMONS_GROUP = "daemons"  # the name of one result for all of them
ALL_DAEMONS = f"all {len(DAEMONS)} daemons of Dagster are running"


class GroupedChecks(NamedTuple):
    """Checks with the same result. `run_ids`: of the runs that they are about."""

    names: list[str]
    status: Status
    message: str
    remedy: str
    run_ids: list[str]

    @property
    def is_problem(self) -> bool:
        """Whether somebody should look."""
        return self.status in ("degraded", "unhealthy")


def group_checks(results: Sequence[CheckResult]) -> list[GroupedChecks]:
    """Return them grouped by status, message and remedy, worst first."""
    groups: dict[tuple[str, str, str], GroupedChecks] = {}
    for result in sorted(_merge_daemons(results), key=lambda result: -STATUSES.index(result.status)):
        message = _message(result)
        new = GroupedChecks([], result.status, message, result.remedy, _run_ids(result))
        groups.setdefault((result.status, message, result.remedy), new).names.append(result.name)
    return [*groups.values()]


def _merge_daemons(results: Sequence[CheckResult]) -> list[CheckResult]:
    """Return them with one result for all daemons, which are one process, if all are healthy or report the same."""
    daemons = [result for result in results if result.name in DAEMON_CHECKS]
    if {result.name for result in daemons} != DAEMON_CHECKS:
        return [*results]
    worst = max(daemons, key=lambda result: STATUSES.index(result.status))
    if worst.passed:
        merged = CheckResult(DAEMONS_GROUP, "healthy", ALL_DAEMONS)
    elif len({result.message for result in daemons}) == 1:
        merged = replace(worst, name=DAEMONS_GROUP)
    else:
        return [*results]
    first = results.index(daemons[0])
    return [*results[:first], merged, *(result for result in results[first:] if result not in daemons)]


def _message(result: CheckResult) -> str:
    skip_reason = result.details.get("skip_reason")
    return f"{result.message}; skipped: {skip_reason}" if skip_reason and result.passed else result.message


def _run_ids(result: CheckResult) -> list[str]:
    return [str(result.details[name]) for name in ("last_run", "waiting_run") if name in result.details]
