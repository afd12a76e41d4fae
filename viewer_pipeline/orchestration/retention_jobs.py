"""The retention jobs: each prunes data older than its setting. `dry_run` only reports."""

import time
from typing import Any

import dagster as dg
from pydantic import Field

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.retention_position import read_retention_position
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.history.days import today
from viewer_pipeline.history.pruning import (
    count_old_parked,
    count_old_rejected,
    first_day_kept,
    plan_ledger_pruning,
    prune_all_parked,
    prune_ledger,
    prune_rejected,
)
from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.run_history_pruning import RunRetention, find_old_runs, find_runs_to_keep, prune_runs
from viewer_pipeline.orchestration.run_trigger_tag import tag_run_with_trigger
from viewer_pipeline.orchestration.settings_resource import SettingsResource
from viewer_pipeline.orchestration.step_errors_and_cancellation import handle_errors_and_cancellation
from viewer_pipeline.stores.postgres import connect_dagster_storage

TAGS = {"viewer/job": "retention", "dagster/max_runtime": "3600"}
MAX_SECONDS = 900.0  # of pruning in one run; the rest is pruned the next day


class RetentionConfig(dg.Config):
    """Options of a retention job."""

    dry_run: bool = Field(False, description="only report what would be pruned")


OUT = dg.Out(dg.Nothing)


@dg.op(out=OUT, tags={"kind": "postgres"})
def prune_old_ledger(context: dg.OpExecutionContext, config: RetentionConfig, settings: SettingsResource) -> None:
    """Prune days of the ledger older than LEDGER_RETENTION_DAYS that are rolled up and settled in Redis."""
    tag_run_with_trigger(context)
    days = settings.ledger_retention_days
    if not days:
        return _report(context, config, {"notes": "LEDGER_RETENTION_DAYS=0: the ledger is kept for ever"})
    zone = settings.history_timezone
    limit = first_day_kept(today(zone), days)
    with (
        handle_errors_and_cancellation(context),
        Stores.open(settings) as stores,
        stores.ledger.connect() as connection,
    ):
        settle = None if config.dry_run else context.run_id
        position = read_retention_position(stores, connection, settle)
        plan = plan_ledger_pruning(connection, limit, position.markers, zone)
        metadata = {
            "days": len(plan.days),
            "kept_from": plan.before.isoformat(),
            "flushes": sum(day.flushes for day in plan.days),
            "batches": sum(day.batches for day in plan.days),
            "views": sum(day.views for day in plan.days),
            "notes": position.obstacle or plan.stop_reason or "no old day was kept",
        }
        if position.obstacle:
            metadata |= dict.fromkeys(("days", "flushes", "batches", "views"), 0)
        elif not config.dry_run:
            keep = stores.redis.layout.cluster
            pruned = prune_ledger(connection, limit, position.markers, MAX_SECONDS, zone, keep_flush_of_marker=keep)
            metadata |= pruned._asdict()
    if reason := position.obstacle or plan.stop_reason:
        context.log.warning(event("pruning_stopped", reason=reason))
    return _report(context, config, metadata)


@dg.op(out=OUT, tags={"kind": "dagster"})
def delete_old_runs(context: dg.OpExecutionContext, config: RetentionConfig, settings: SettingsResource) -> None:
    """Delete runs older than RUN_RETENTION_DAYS (failed: FAILED_RUN_RETENTION_DAYS), with their events.

    Keeps runs of other code locations, active runs, and the runs of each asset's latest materialization and checks.
    """
    tag_run_with_trigger(context)
    ages = RunRetention.of(settings)
    with handle_errors_and_cancellation(context), connect_dagster_storage(settings) as connection:
        if config.dry_run:
            metadata: dict[str, Any] = {
                "runs": len(find_old_runs(connection, find_runs_to_keep(connection), ages, time.time()))
            }
        else:
            metadata = prune_runs(connection, context.instance, ages, MAX_SECONDS)._asdict()
    _report(context, config, metadata)


@dg.op(out=OUT, tags={"kind": "postgres"})
def prune_old_rejected_and_parked(
    context: dg.OpExecutionContext, config: RetentionConfig, settings: SettingsResource
) -> None:
    """Prune rejected input older than REJECTED_RETENTION_DAYS and parked views older than PARKED_RETENTION_DAYS."""
    tag_run_with_trigger(context)
    ledger, metadata = Ledger.of(settings), dict[str, Any]()
    with handle_errors_and_cancellation(context), ledger.connect() as connection:
        target = ledger.target(connection)
        if days := settings.rejected_retention_days:
            metadata["rejected"] = (count_old_rejected if config.dry_run else prune_rejected)(connection, days)
        if target is not None and (days := settings.parked_retention_days):
            parked = (count_old_parked if config.dry_run else prune_all_parked)(connection, target, days)
            metadata |= {"parked_vods": parked.vods, "parked_views": parked.views}
    _report(context, config, metadata or {"notes": "no retention period is set: both are kept for ever"})


def _report(context: dg.OpExecutionContext, config: RetentionConfig, metadata: dict[str, Any]) -> None:
    context.add_output_metadata({"dry_run": config.dry_run, **metadata})
    context.log.info(event("pruned", dry_run=config.dry_run, **metadata))


def _job_of(op: dg.OpDefinition, name: str) -> dg.JobDefinition:
    return dg.GraphDefinition(name, description=op.description, node_defs=[op]).to_job(tags=TAGS)


prune_ledger_days = _job_of(prune_old_ledger, "prune_ledger_days")
prune_run_history = _job_of(delete_old_runs, "prune_run_history")
prune_rejected_and_parked = _job_of(prune_old_rejected_and_parked, "prune_rejected_and_parked")
RETENTION_JOBS = [prune_ledger_days, prune_run_history, prune_rejected_and_parked]
