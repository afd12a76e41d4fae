"""Housekeeping: what is dropped once it is old, each by its setting. `dry_run` only says what would be."""

import time
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from viewer_pipeline.flush.ownership import own_marker
from viewer_pipeline.history.retention import (
    LedgerPlan,
    first_day_kept,
    old_parked,
    old_rejected,
    plan_ledger,
    prune_all_parked,
    prune_ledger,
    prune_rejected,
)
from viewer_pipeline.orchestration.ops import TRANSIENT, retry_only_transient
from viewer_pipeline.orchestration.resources import PostgresResource, RedisResource, stores
from viewer_pipeline.orchestration.run_history import Ages, connect, latest_runs, old_runs, prune_runs
from viewer_pipeline.orchestration.trigger import tag_trigger
from viewer_pipeline.settings import load_settings

TAGS = {"viewer/job": "retention", "dagster/max_runtime": "3600"}
SECONDS = 900.0  # of a run; what is left is for the next day


class RetentionConfig(dg.Config):
    """How housekeeping is done."""

    dry_run: bool = Field(False, description="only say what would be dropped")


OUT = dg.Out(dg.Nothing)


@dg.op(out=OUT, retry_policy=TRANSIENT, tags={"kind": "postgres"})
def prune_old_ledger(
    context: dg.OpExecutionContext, config: RetentionConfig, redis: RedisResource, postgres: PostgresResource
) -> None:
    """Drop days of the ledger older than LEDGER_RETENTION_DAYS that are added up and settled in Redis."""
    tag_trigger(context)
    days = load_settings().ledger_retention_days
    if not days:
        return _report(context, config, {"notes": "LEDGER_RETENTION_DAYS=0: the ledger is kept for ever"})
    limit = first_day_kept(datetime.now(UTC).date(), days)
    with retry_only_transient(), stores(redis, postgres) as both, both.ledger.connect() as connection:
        marker = own_marker(both.redis, both.ledger, connection)
        plan = plan_ledger(connection, limit, marker)
        said = _planned(plan)
        if not config.dry_run:
            done = prune_ledger(connection, limit, marker, SECONDS)
            said |= {"flushes": done.flushes, "batches": done.batches, "views": done.views, "ended": done.ended}
    if plan.why_no_more:
        context.log.warning(plan.why_no_more)
    return _report(context, config, said)


def _planned(plan: LedgerPlan) -> dict[str, Any]:
    return {
        "days": len(plan.days),
        "kept_from": plan.before.isoformat(),
        "flushes": sum(day.flushes for day in plan.days),
        "batches": sum(day.batches for day in plan.days),
        "views": sum(day.views for day in plan.days),
        "notes": plan.why_no_more or "nothing that is old was kept",
    }


@dg.op(out=OUT, retry_policy=TRANSIENT, tags={"kind": "dagster"})
def delete_old_runs(context: dg.OpExecutionContext, config: RetentionConfig) -> None:
    """Delete runs of ours that are older than RUN_RETENTION_DAYS (failed: FAILED_RUN_RETENTION_DAYS), and their events.

    Never the run of an asset's latest materialization or check, nor one that has not ended.
    """
    tag_trigger(context)
    settings = load_settings()
    ages = Ages(settings.run_retention_days, settings.failed_run_retention_days)
    with retry_only_transient(), connect(settings) as connection:
        if config.dry_run:
            said: dict[str, Any] = {"runs": len(old_runs(connection, latest_runs(connection), ages, time.time()))}
        else:
            said = prune_runs(connection, context.instance, ages, SECONDS)._asdict()
    _report(context, config, said)


@dg.op(out=OUT, retry_policy=TRANSIENT, tags={"kind": "postgres"})
def prune_old_input(context: dg.OpExecutionContext, config: RetentionConfig, postgres: PostgresResource) -> None:
    """Forget rejected input (REJECTED_RETENTION_DAYS) and give up parked views (PARKED_RETENTION_DAYS) that are old."""
    tag_trigger(context)
    settings, said = load_settings(), dict[str, Any]()
    ledger = postgres.ledger()
    with retry_only_transient(), ledger.connect() as connection:
        target = ledger.target(connection)
        if days := settings.rejected_retention_days:
            said["rejected"] = (old_rejected if config.dry_run else prune_rejected)(connection, days)
        if target is not None and (days := settings.parked_retention_days):
            parked = (old_parked if config.dry_run else prune_all_parked)(connection, target, days)
            said |= {"parked_vods": parked.vods, "parked_views": parked.views}
    _report(context, config, said or {"notes": "neither has a setting: both are kept for ever"})


def _report(context: dg.OpExecutionContext, config: RetentionConfig, said: dict[str, Any]) -> None:
    context.add_output_metadata({"dry_run": config.dry_run, **said})
    done = "would drop" if config.dry_run else "dropped"
    context.log.info(f"{done}: {', '.join(f'{name}={value}' for name, value in said.items())}")


@dg.job(executor_def=dg.in_process_executor, tags=TAGS)
def prune_ledger_days() -> None:
    """Drop what the ledger no longer needs: days that are old, added up and settled. Config `dry_run` only tells."""
    prune_old_ledger()


@dg.job(executor_def=dg.in_process_executor, tags=TAGS)
def prune_run_history() -> None:
    """Delete old runs of Viewer Pipeline from Dagster's history, which Dagster would keep for ever."""
    delete_old_runs()


@dg.job(executor_def=dg.in_process_executor, tags=TAGS)
def prune_input() -> None:
    """Forget old rejected input and give up old parked views, where their settings say so."""
    prune_old_input()


RETENTION_JOBS = [prune_ledger_days, prune_run_history, prune_input]
