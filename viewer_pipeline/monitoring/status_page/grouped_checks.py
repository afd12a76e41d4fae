"""The checks as the page lists them: worst first, and one line for all that report the same. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from viewer_pipeline.checks import STATUSES, CheckResult, Status
from viewer_pipeline.monitoring.dagster_rules import DAEMONS, daemon_check_name

DAEMON_CHECKS = frozenset(map(daemon_check_name, DAEMONS))
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
    healthy_daemons = {result.name for result in results if result.passed and result.name in DAEMON_CHECKS}
    groups: dict[tuple[str, str, str], GroupedChecks] = {}
    for result in sorted(results, key=lambda result: -STATUSES.index(result.status)):
        message = ALL_DAEMONS if healthy_daemons == DAEMON_CHECKS and result.name in DAEMON_CHECKS else _message(result)
        new = GroupedChecks([], result.status, message, result.remedy, _run_ids(result))
        groups.setdefault((result.status, message, result.remedy), new).names.append(result.name)
    return [group._replace(names=["daemons"]) if group.message == ALL_DAEMONS else group for group in groups.values()]


def _message(result: CheckResult) -> str:
    skip_reason = result.details.get("skip_reason")
    return f"{result.message}; skipped: {skip_reason}" if skip_reason else result.message


def _run_ids(result: CheckResult) -> list[str]:
    return [str(result.details[name]) for name in ("last_run", "waiting_run") if name in result.details]
