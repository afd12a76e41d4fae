"""The status as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO
from zoneinfo import ZoneInfo

from rich import box
from rich.console import Console
from rich.table import Column, Table

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.ledger_row_types import RecentFlush
from viewer_pipeline.flush.rejected_counts import describe_rejected
from viewer_pipeline.flush.sweep_position import SweepPosition
from viewer_pipeline.monitoring.dagster_rules import DAEMONS, daemon_check_name, failing_daemons
from viewer_pipeline.monitoring.health_rules import REASONS
from viewer_pipeline.monitoring.pending_views import PendingViews
from viewer_pipeline.monitoring.stall_reasons import label_of_reasons
from viewer_pipeline.monitoring.startup import STARTED_LAST, STARTING, status_of_whole
from viewer_pipeline.monitoring.status import PipelineStatus
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.streams import format_seq
from viewer_pipeline.text_formatting import pluralize, views_of_vods, wrap
from viewer_pipeline.time_formatting import format_age, seconds_since

LABEL = 11  # least number of characters in front of each text; more where a check has a longer name
REMEDY = "remedy"  # in place of a name: what to do about the line above
SERVERS = {"redis": "Redis", "postgres": "PostgreSQL"}
DAEMON_CHECKS = tuple(map(daemon_check_name, DAEMONS))
WITH_LINES = {"marker", "incidents", "rejected", "subscriber", "flush_runs", "sensor", "sweep", *DAEMON_CHECKS}
LINES = {"flush_runs": "runs", **dict.fromkeys(DAEMON_CHECKS, "daemons")}  # of checks with other names


def render_status(status: PipelineStatus, width: int) -> str:
    """Return one line for each subject, the last flushes, and the reasons of a stall, in lines of at most `width`.

    Below what fails is what to do; where several checks have the same remedy, only below the first of them.
    """
    named_lines = list(_with_shared_remedies([*_lines(status)]))
    label_width = max(LABEL, *(len(name) + 1 for name, _ in named_lines))
    lines = [wrap(f"{name:<{label_width}}", redact_text(text), width) for name, text in named_lines]
    if status.ledger.value is not None:
        flushes = status.ledger.value.flushes
        lines += ["", _flush_table(flushes, status.zone, width) if flushes else "no flush yet"]
    if status.stall_reasons:
        first, *reasons = status.stall_reasons
        label = label_of_reasons(status.redis.value.pending if status.redis.value else None, status.checks)
        lines += ["", wrap(f"{label:<{label_width}}", redact_text(first), width)]
        lines += [wrap(f"{'':<{label_width}}- ", redact_text(reason), width) for reason in reasons]
    return "\n".join(lines)


def _flush_table(flushes: Sequence[RecentFlush], zone: ZoneInfo, width: int) -> str:
    numbers = (Column(name, justify="right") for name in ("counters", "views", "batches"))
    taken_at = f"taken at ({zone.key})"
    table = Table(Column("flush", justify="right"), "mode", taken_at, *numbers, box=box.SIMPLE, show_edge=False)
    for flush in flushes:
        taken_at = flush.taken_at.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(
            *map(str, (format_seq(flush.seq), flush.mode, taken_at, flush.counters, flush.views, flush.batches))
        )
    output = StringIO()
    Console(file=output, width=width).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def _lines(status: PipelineStatus) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each line above the table, or (REMEDY, text).

    Of a server that cannot be read its error instead.
    """
    yield "status", _headline(status)
    for server, failure in status.failures.items():
        yield SERVERS[server], failure.error
        if failure.remedy:
            yield REMEDY, failure.remedy
    redis, ledger, checks = status.redis.value, status.ledger.value, status.checks
    if redis is not None:
        yield "pending", _describe_pending(redis.pending)
        if redis.sweep:
            yield "sweep at", _describe_sweep_position(redis.sweep)
    if ledger is not None:
        yield "persisted", views_of_vods(ledger.summary.persisted, ledger.summary.vods)
        yield "parked", views_of_vods(ledger.summary.parked, ledger.summary.parked_vods)
        is_reported = checks["rejected"].status in ("degraded", "unhealthy")
        yield "rejected", checks["rejected"].message if is_reported else describe_rejected(ledger.rejected)
        if is_reported:
            yield from _remedies(status, "rejected")
    if redis is not None and ledger is not None:
        yield "marker", _describe_marker(status)
        yield from _remedies(status, "marker")
        if ledger.incidents:
            yield "incidents", checks["incidents"].message
            yield from _remedies(status, "incidents")
    yield from _check_lines(status)


def _with_shared_remedies(lines: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the lines with each remedy once, below the first line that has it, with the names of the others."""
    names_by_remedy: dict[str, list[str]] = {}
    current = ""
    for name, text in lines:
        if name == REMEDY:
            names_by_remedy.setdefault(text, []).append(current)
        else:
            current = name or current
    for name, text in lines:
        if name != REMEDY:
            yield name, text
        elif names := names_by_remedy.pop(text, []):
            others = f" (also for {', '.join(names[1:])})" if names[1:] else ""
            yield "", f"remedy{others}: {text}"


def _headline(status: PipelineStatus) -> str:
    """Return the status of the whole, and the lines below that are the reason."""
    if status.failures:
        return f"unhealthy: {' and '.join(SERVERS[name] for name in status.failures)} cannot be read"
    worst = status_of_whole(status.checks.values(), up_is_starting=status.up_is_starting)
    if worst == "starting":
        return f"starting: {STARTING}"
    names = [LINES.get(name, name) for name, check in status.checks.items() if check.status == worst != "healthy"]
    return f"{worst}: {', '.join(dict.fromkeys(names))}" if names else worst


def _check_lines(status: PipelineStatus) -> Iterator[tuple[str, str]]:
    """Yield the lines of checks that were possible, each that fails with its remedy.

    Skip reasons are among the reasons of a stall, where there are any. A server that cannot be read has a line of its
    own.
    """
    checks = status.checks
    for name, check in checks.items():
        is_failing = name not in WITH_LINES and check.status not in ("healthy", "unknown")
        if is_failing and name.partition("_")[0] not in status.failures:
            yield name, check.message
            yield from _remedies(status, name)
    if checks["subscriber"].status != "unknown":
        yield "subscriber", checks["subscriber"].message
        yield from _remedies(status, "subscriber")
    if checks["flush_runs"].status != "unknown":
        for number, text in enumerate(_summarise_daemons(checks)):
            yield "" if number else "daemons", text
        yield from _remedies(status, *DAEMON_CHECKS)
        for name in ("sensor", "sweep"):
            yield name, checks[name].message if status.stall_reasons else _with_skip_reason(checks[name])
            yield from _remedies(status, name)
        yield "runs", checks["flush_runs"].message
        yield from _remedies(status, "flush_runs")


def _remedies(status: PipelineStatus, *names: str) -> Iterator[tuple[str, str]]:
    """Yield a line for each remedy of these checks; none for what a starting `up` has not started yet."""
    if status.up_is_starting and not STARTED_LAST.isdisjoint(names):
        return
    in_this_report = "the reasons are below" if status.stall_reasons else ""
    for remedy in dict.fromkeys(status.checks[name].remedy for name in names if not status.checks[name].passed):
        if text := in_this_report if remedy == REASONS else remedy:
            yield REMEDY, text


def _describe_pending(pending: PendingViews) -> str:
    """Return `7 views of 2 announced VODs, the oldest 3 s ago`, and how many were read if not all were.

    Of several streams also the one that has most of them.
    """
    bound = "at least " if pending.is_lower_bound else ""
    read = f" ({pending.read} were read)" if pending.is_lower_bound else ""
    age = f", the oldest announced {format_age(pending.age)}" if pending.vods else ""
    stream, vods = max(pending.streams.items(), key=lambda item: item[1], default=("", 0))
    most = f"; {vods} of them in stream {stream}" if vods and len(pending.streams) > 1 else ""
    return f"{bound}{pluralize(pending.views, 'view')} of {pluralize(pending.vods, 'announced VOD')}{read}{age}{most}"


def _describe_sweep_position(position: SweepPosition) -> str:
    return f"{position.share:.1%} of all keys, begun {format_age(seconds_since(position.began))}"


def _describe_marker(status: PipelineStatus) -> str:
    assert status.redis.value is not None, "both servers were read"
    assert status.ledger.value is not None, "both servers were read"
    marker, check = status.redis.value.marker, status.checks["marker"]
    position = f"flush {format_seq(marker.seq)}, batch {marker.batch} of {marker.of}" if marker else "none"
    unsettled = " (not settled)" if status.is_last_flush_settled is False else ""
    if not status.streams:
        position = "unknown"
    elif len(status.streams) > 1:
        position = f"one for each of {len(status.streams)} streams"
        behind = ", ".join(each.stream.name for each in status.streams if not each.is_settled)
        unsettled = f" (not settled in {behind})" if behind else ""
    elif (shards := status.unsettled_shards) is not None and marker:
        position = "one for each slot of the cluster"
        unsettled = f" (not settled in {pluralize(shards, 'shard')})" if shards else ""
    last = format_seq(status.ledger.value.last_flush.seq)
    problem = "" if check.passed else f"; {check.message}"
    return f"{position}; the ledger's last flush is {last}{unsettled}{problem}"


def _summarise_daemons(checks: dict[str, CheckResult]) -> list[str]:
    """Return one line if all daemons are well, or all report the same; else one for each that is not."""
    failing = [f"{name}: {message}" if name else message for name, message in failing_daemons(checks, DAEMONS)]
    return failing or [f"all {len(DAEMONS)} of Dagster are running"]


def _with_skip_reason(check: CheckResult) -> str:
    skip_reason = check.details.get("skip_reason")
    return f"{check.message}{f', skipped: {skip_reason}' if skip_reason else ''}"
