"""Checks during a start of `up`: what it has not started yet is no problem."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from viewer_pipeline.checks import CheckResult, Status, worst_status
from viewer_pipeline.home_lock_and_server_urls import is_up_starting, seconds_since_start_of_up
from viewer_pipeline.monitoring.dagster_rules import DAGSTER_CHECKS, START, TOLERANCE_SECONDS

STARTED_LAST = frozenset(("subscriber", *DAGSTER_CHECKS))  # checks of what `up` starts after the servers
STARTING = "not all processes of `up` run yet"


def is_starting(home: Path, checks: Iterable[CheckResult]) -> bool:
    """Whether an `up` in this directory has not started all its processes yet, or Dagster's have not reported yet."""
    if is_up_starting(home):
        return True
    silent = any(check.name in DAGSTER_CHECKS and check.remedy == START for check in checks)
    return silent and seconds_since_start_of_up(home) < TOLERANCE_SECONDS


def is_about_to_start(name: str, *, up_is_starting: bool) -> bool:
    """Whether the check with this name may fail only because `up` is starting."""
    return up_is_starting and name in STARTED_LAST


def status_of_whole(checks: Iterable[CheckResult], *, up_is_starting: bool) -> Status | Literal["starting"]:
    """Return the status of the worst check; `starting` during a start of `up` where nothing else is wrong."""
    worst = worst_status(check for check in checks if not is_about_to_start(check.name, up_is_starting=up_is_starting))
    return "starting" if up_is_starting and worst == "healthy" else worst
