"""Runs of our jobs in this process, recorded in Dagster's history. Imports Dagster: two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import click
import dagster as dg

from viewer_pipeline.checks import CheckResult, checks_to_dict, worst_status
from viewer_pipeline.cli.output import echo_result
from viewer_pipeline.definitions import defs
from viewer_pipeline.history.days import Window
from viewer_pipeline.orchestration.daily_views_asset import roll_up_days
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline.orchestration.partitions import format_window, partition_range_tags
from viewer_pipeline.orchestration.recorded_errors import innermost_error, own_error
from viewer_pipeline.orchestration.run_trigger_tag import TRIGGER_TAG
from viewer_pipeline.orchestration.stream_partitions import stream_tags
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.settings import Settings
from viewer_pipeline.time_formatting import format_timestamp

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}  # `echo_run_result` prints errors
SUMMED_STATS = ("counters", "views", "flushes", "batches", "unparked", "rejected", "drift")
DAY_STATS = {"daily_views": "views", "daily_vods": "vods", "flushes": "flushes", "notes": "notes"}


@dataclass(frozen=True)
class RunResult:
    """A run that has ended.

    Attributes:
        stats: metadata of its materialization; of a backfill by day.
        checks: the results of its asset checks.
        errors: why it failed: the sentence of each error of ours, of others the stack trace too.

    """

    run_id: str
    success: bool
    stats: dict[str, Any]
    checks: list[CheckResult]
    errors: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "status": worst_status(self.checks) if self.success else "unhealthy",
            "timestamp": format_timestamp(),
            "run_id": self.run_id,
            "success": self.success,
            "stats": self.stats,
            "checks": checks_to_dict(self.checks),
        }


def echo_run_result(result: RunResult, text: str, *, as_json: bool) -> None:
    """Print the result of a run; name failed checks, errors and a failed run on stderr, with exit status 1."""
    if as_json or text:
        echo_result(result.to_dict(), text, as_json=as_json)
    failed_checks = [check.name for check in result.checks if not check.passed]
    if failed_checks:
        click.echo(f"failed checks: {', '.join(failed_checks)}", err=True)
    for error in result.errors:
        click.echo(f"error: {error}", err=True)
    if not result.success:
        click.echo(f"run {result.run_id} failed; its events are in the Dagster UI", err=True)
    if failed_checks or not result.success:
        raise SystemExit(1)


def run_flush(
    instance: dg.DagsterInstance,
    settings: Settings,
    mode: FlushMode,
    *,
    trigger: str,
    vod_ids: tuple[str, ...] = (),
    announced_before: float | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
    logged: bool = False,
) -> RunResult:
    """Run the flush job. `logged`: its lines are logged as LOG_LEVEL says."""
    config = flush_run_config(mode, vod_ids, announced_before if mode is FlushMode.changed else None)
    run_config = config if logged else config | QUIET
    result = _execute(flush_views.name, instance, settings, run_config, {TRIGGER_TAG: trigger, **stream_tags(), **tags})
    stats: dict[str, Any] = {}
    for event in result.get_asset_materialization_events():
        metadata: dict[str, Any] = {name: value.value for name, value in event.materialization.metadata.items()}
        stats |= {**metadata["details"], "notes": metadata["notes"]}
    return RunResult(result.run_id, result.success, stats, _check_results(result), _errors(result))


def run_flushes(
    instance: dg.DagsterInstance,
    settings: Settings,
    mode: FlushMode,
    *,
    trigger: str,
    vod_ids: tuple[str, ...] = (),
    tags: Callable[[], Mapping[str, str]] = dict,
    logged: bool = False,
) -> Iterator[RunResult]:
    """Run the flush job until it has read all that is pending now, or fails; yield each run when it has ended.

    A sweep ends with a pass of which these runs have read every part: another run may have begun it, or moved it on.
    """
    announced_before, read_percent = None, 0.0
    while True:
        result = run_flush(
            instance,
            settings,
            mode,
            trigger=trigger,
            vod_ids=vod_ids,
            announced_before=announced_before,
            tags=tags(),
            logged=logged,
        )
        yield result
        stats = result.stats
        announced_before = announced_before or stats.get("taken_at")
        if stats.get("scanned_from_percent", 0) <= read_percent:  # else another run has read what lies between
            read_percent = stats.get("scanned_percent", 100)
        if not result.success or not (stats["remaining"] or read_percent < 100):
            return


def merge_results(results: Sequence[RunResult]) -> RunResult:
    """Return flush runs as one: the id and the checks of the last, and the sums of what each has counted."""
    last = results[-1]
    totals = {name: sum(result.stats.get(name, 0) for result in results) for name in SUMMED_STATS if name in last.stats}
    return replace(last, stats={**last.stats, **totals})


def run_backfill(instance: dg.DagsterInstance, settings: Settings, window: Window) -> RunResult:
    """Roll up these days in one run."""
    tags = {TRIGGER_TAG: f"command line: backfill of {format_window(window)}", **partition_range_tags(window)}
    result = _execute(roll_up_days.name, instance, settings, QUIET, tags)
    days = {
        str(event.partition): {
            DAY_STATS[name]: value.value for name, value in event.materialization.metadata.items() if name in DAY_STATS
        }
        for event in result.get_asset_materialization_events()
    }
    return RunResult(result.run_id, result.success, days, _check_results(result), _errors(result))


def _execute(
    job: str, instance: dg.DagsterInstance, settings: Settings, config: dict[str, Any], tags: dict[str, str]
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(
        run_config=config, resources={"settings": settings}, instance=instance, tags=tags, raise_on_error=False
    )


def _errors(result: dg.ExecuteInProcessResult) -> list[str]:
    events = [event for event in result.all_events if event.is_step_failure] or [
        event for event in result.all_events if event.is_run_failure
    ]
    errors = [getattr(event.event_specific_data, "error", None) for event in events]
    return [
        redact_text(own_error(error) or innermost_error(error).to_string().strip())
        for error in errors
        if error is not None
    ]


def _check_results(result: dg.ExecuteInProcessResult) -> list[CheckResult]:
    return [
        CheckResult(
            evaluation.check_name,
            "healthy" if evaluation.passed else "unhealthy",
            evaluation.description or "",
            {name: value.value for name, value in evaluation.metadata.items()},
        )
        for evaluation in result.get_asset_check_evaluations()
    ]
