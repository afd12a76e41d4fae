"""Why nothing is flushed, as the page shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from viewer_pipeline.checks import Status
from viewer_pipeline.monitoring.dagster_rules import DAGSTER_CHECKS
from viewer_pipeline.monitoring.stall_reasons import label_of_reasons, stall_reasons
from viewer_pipeline.settings import Settings

if TYPE_CHECKING:
    from viewer_pipeline.monitoring.status_page.page import StatusReading

NEEDED_CHECKS = frozenset((*DAGSTER_CHECKS, "subscriber"))


class Stall(NamedTuple):
    """A time without flushes. `status`: gives its colour; `summary`: since when, as a sentence."""

    label: str
    status: Status
    summary: str
    reasons: list[str]


def find_stall(reading: StatusReading, settings: Settings) -> Stall | None:
    """Return why nothing was persisted recently; None if something was, if that cannot be read, or if `up` starts."""
    pending, stored = reading.redis.value, reading.postgres.value
    checks = {check.name: check for check in reading.checks}
    if pending is None or stored is None or not checks.keys() >= NEEDED_CHECKS:  # a worker that stops has no checks
        return None
    if reading.up_is_starting:
        return None
    sentences = stall_reasons(stored.flushes, pending.vods, checks, settings)
    if not sentences:
        return None
    label = label_of_reasons(pending, checks)
    summary, *reasons = sentences
    return Stall(label.capitalize(), "unhealthy" if label == "stalled" else "unknown", summary.rstrip(":"), reasons)
