"""The status for a terminal."""

from __future__ import annotations

from datetime import UTC

from rich.console import Console
from rich.table import Column, Table

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.rejected_counts import describe_rejected
from viewer_pipeline.flush.sweep_position import SweepPosition
from viewer_pipeline.monitoring.dagster_rules import DAEMONS, failing_daemons
from viewer_pipeline.monitoring.status import PipelineStatus
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.text_formatting import pluralize, views_of_vods
from viewer_pipeline.time_formatting import format_age, seconds_since

WIDTH = 10
REMAINING = (
    "redis",
    "redis_memory",
    "postgres",
    "freshness",
    "unsettled",
    "last_flush",
    "single_daemon",
)  # shown only where something is wrong


def print_status(status: PipelineStatus) -> None:
    """Print one line for each subject, the last flushes, and the reasons of a stall."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for name, text in _lines(status):
        console.print(redact_text(f"{name:<{WIDTH}} {text}"))
    numbers = (Column(name, justify="right") for name in ("counters", "views", "batches"))
    table = Table(Column("flush", justify="right"), "mode", "taken at (UTC)", *numbers, title="last flushes")
    for flush in status.flushes:
        taken_at = flush.taken_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(*map(str, (flush.seq, flush.mode, taken_at, flush.counters, flush.views, flush.batches)))
    console.print(table if status.flushes else "no flush yet")
    for number, reason in enumerate(status.stall_reasons):
        console.print(redact_text(f"{'' if number else 'stalled':<{WIDTH}} {reason}"))


def _lines(status: PipelineStatus) -> list[tuple[str, str]]:
    """Return (name, text) of each line above the table."""
    oldest = status.oldest_pending_seconds
    age = "" if oldest is None else f", the oldest announced {format_age(oldest)}"
    checks = status.checks
    return [
        ("pending", f"{pluralize(status.pending_vods, 'announced VOD')}{age}"),
        *([("sweep at", _sweeping(status.sweep))] if status.sweep else []),
        ("persisted", views_of_vods(status.summary.persisted, status.summary.vods)),
        ("parked", views_of_vods(status.summary.parked, status.summary.parked_vods)),
        ("rejected", describe_rejected(status.rejected)),
        ("marker", _marker(status)),
        *([("incidents", checks["incidents"].message)] if status.incidents else []),
        *((name, checks[name].message) for name in REMAINING if not checks[name].passed),
        ("subscriber", checks["subscriber"].message),
        *(("" if number else "daemons", text) for number, text in enumerate(_summarise_daemons(checks))),
        ("sensor", _with_skip_reason(checks["sensor"])),
        ("sweep", _with_skip_reason(checks["sweep"])),
        ("runs", checks["flush_runs"].message),
    ]


def _sweeping(position: SweepPosition) -> str:
    return f"{position.share:.1%} of all keys, begun {format_age(seconds_since(position.began))}"


def _marker(status: PipelineStatus) -> str:
    marker, check = status.marker, status.checks["marker"]
    position = f"flush {marker.seq}, batch {marker.batch} of {marker.of}" if marker else "none"
    unsettled = "" if status.is_last_flush_settled else " (not settled)"
    problem = "" if check.passed else f"; {check.message}"
    return f"{position}; the ledger's last flush is {status.last_flush.seq}{unsettled}{problem}"


def _summarise_daemons(checks: dict[str, CheckResult]) -> list[str]:
    """Return one line if all daemons are well, or all report the same; else one for each that is not."""
    failing = [f"{name}: {message}" if name else message for name, message in failing_daemons(checks, DAEMONS)]
    return failing or [f"all {len(DAEMONS)} of Dagster are running"]


def _with_skip_reason(check: CheckResult) -> str:
    skip_reason = check.details.get("skip_reason")
    return f"{check.message}{f', skipped: {skip_reason}' if skip_reason else ''}"
