"""The four steps of a flush as Dagster ops."""

import time
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from viewer_pipeline.flush.aggregate import Aggregate
from viewer_pipeline.flush.combined_report import combine_reports
from viewer_pipeline.flush.commit import SUPERSEDED_TRIES
from viewer_pipeline.flush.each_stream import (
    aggregate_each_stream,
    drain_each_stream,
    upsert_each_stream,
    verify_each_stream,
)
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.ledger_reads import last_reading
from viewer_pipeline.flush.most_viewed import most_viewed_vods
from viewer_pipeline.flush.recorded_settings import record_settings_in_redis
from viewer_pipeline.flush.rejected_counts import report_newly_rejected
from viewer_pipeline.flush.run_metrics import record_run
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.verify import CHECKS
from viewer_pipeline.history.view_totals import read_view_totals
from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.flush_log import log_committed
from viewer_pipeline.orchestration.flush_metadata import TOP_VODS, StateAfterRun, metadata_of_run
from viewer_pipeline.orchestration.loggers import LOG_LINES
from viewer_pipeline.orchestration.materializations import ASSET
from viewer_pipeline.orchestration.next_flush_run import queue_next_run
from viewer_pipeline.orchestration.run_trigger_tag import tag_run_with_trigger
from viewer_pipeline.orchestration.settings_resource import SettingsResource
from viewer_pipeline.orchestration.step_errors_and_cancellation import handle_errors_and_cancellation
from viewer_pipeline.orchestration.stores_resource import StoresResource
from viewer_pipeline.orchestration.stream_partitions import STREAM_TAGS, streams_of_run
from viewer_pipeline.orchestration.ui_metadata import to_asset_check_result
from viewer_pipeline.target.parked_views import still_parked_of_flushes

IN_MEMORY = "memory"  # the io manager: outputs stay in the process of the run, nothing is pickled to disk


class FlushMode(Enum):
    """Which counters a run reads."""

    changed = "changed"
    sweep = "sweep"


class FlushConfig(dg.Config):
    """Options of a flush run."""

    mode: FlushMode = Field(
        FlushMode.sweep, description="changed: announced VODs; sweep: all counters, also those nobody announced"
    )
    vod_ids: list[str] = Field([], description="flush only these VODs, in either mode")
    announced_before: float | None = Field(
        None,
        description="changed: only VODs announced before this Unix time. Set by a run that leaves some to the next",
    )


def flush_run_config(
    mode: FlushMode, vod_ids: tuple[str, ...] = (), announced_before: float | None = None
) -> dict[str, Any]:
    """Return the run config of `flush_views`, with log lines on stderr in our format."""
    config: dict[str, Any] = {"mode": mode.name, "vod_ids": list(vod_ids)}
    if announced_before is not None:
        config["announced_before"] = announced_before
    return {"ops": {ASSET: {"config": config}}, **LOG_LINES}


def flush_mode_of(run_config: Mapping[str, Any]) -> str:
    """Return the mode of a flush run with this run config, as the ledger records it."""
    config = run_config.get("ops", {}).get(ASSET, {}).get("config", {})
    return "ids" if config.get("vod_ids") else config.get("mode", FlushMode.sweep.name)


@dg.op(
    ins={"redis_counters": dg.In(dg.Nothing)},
    out=dg.Out(io_manager_key=IN_MEMORY),
    tags={"kind": "redis"},
)
def drain_counters(
    context: dg.OpExecutionContext, config: FlushConfig, settings: SettingsResource, stores: StoresResource
) -> list[Snapshot]:
    """Settle committed batches of earlier runs, then read the counters. Changes nothing in Redis but the markers.

    One snapshot for each stream of the run; the following steps work on all of them side by side.
    """
    tag_run_with_trigger(context)
    request = FlushRequest(
        run_id=context.run.run_id,
        mode="ids" if config.vod_ids else config.mode.value,
        vod_ids=tuple(config.vod_ids),
        batch_size=settings.batch_size,
        flush_max_counters=settings.max_counters_per_flush,
        run_max_counters=settings.run_max_counters,
        announced_before=config.announced_before,
        parked_retention_days=settings.parked_retention_days,
        redis_without_marker=settings.redis_without_marker,
    )
    with handle_errors_and_cancellation(context):
        snapshots = drain_each_stream(streams_of_run(stores, context.run.tags), request)
        record_settings_in_redis(stores.redis, settings)
    for snapshot in snapshots:
        context.log.info(event("counters_read", counters=snapshot.progress.read, mode=request.mode, base=snapshot.base))
    return snapshots


@dg.op(out=dg.Out(io_manager_key=IN_MEMORY), tags={"kind": "pandas"})
def aggregate_counts(context: dg.OpExecutionContext, snapshots: list[Snapshot]) -> list[Aggregate]:
    """Turn readings into a DataFrame of one delta per VOD; reject values that can never be a count."""
    aggregates = aggregate_each_stream(snapshots)
    rejects = [reject for aggregated in aggregates for reject in aggregated.rejects]
    if rejects:
        first = rejects[0]
        number, subject, value = len(rejects), first.subject, first.value
        context.log.warning(
            event("counters_rejected", counters=number, subject=subject, value=value, reason=first.reason)
        )
    return aggregates


@dg.op(out=dg.Out(io_manager_key=IN_MEMORY), tags={"kind": "postgres"})
def bulk_upsert(
    context: dg.OpExecutionContext, snapshots: list[Snapshot], aggregates: list[Aggregate], stores: StoresResource
) -> list[RunReport]:
    """Commit ledger and totals in one transaction per flush, then subtract each committed batch from Redis, once."""
    with handle_errors_and_cancellation(context):
        reports = upsert_each_stream(stores, snapshots, aggregates)
    persisted = combine_reports(reports)
    for sentence in persisted.notes.sentences():
        context.log.warning(event("run_note", note=sentence))
    if persisted.left_over:
        context.log.warning(event("superseded_repeatedly", tries=SUPERSEDED_TRIES))
    if persisted.unparked.vods:
        context.log.info(event("parked_views_counted", vods=persisted.unparked.vods, views=persisted.unparked.views))
    if persisted.recovered:
        context.log.info(event("flushes_recovered", flushes=len(persisted.recovered)))
    return reports


@dg.op(
    out={"result": dg.Out(dg.Nothing), **{check: dg.Out(io_manager_key=IN_MEMORY) for check in CHECKS}},
    tags={"kind": "postgres"},
)
def verify_consistency(
    context: dg.OpExecutionContext, reports: list[RunReport], settings: SettingsResource, stores: StoresResource
) -> Iterator[Any]:
    """Compare committed flushes with the aggregated frame: ledger, totals, marker, drift. Then record run metrics."""
    started = time.perf_counter()
    persisted = combine_reports(reports)
    with handle_errors_and_cancellation(context):
        results = verify_each_stream(stores, reports)
        with stores.ledger.connect() as connection:
            state = StateAfterRun(
                most_viewed_vods(connection, persisted, TOP_VODS),
                still_parked_of_flushes(connection, persisted.seqs),
                report_newly_rejected(connection, context.run.run_id),
                read_view_totals(connection),
                last_reading(connection, persisted.seqs[0] - 1 if persisted.seqs else persisted.snapshot.base),
                pending_vods=sum(
                    stores.of_stream(report.snapshot.request.stream).redis.count_announced(None) for report in reports
                ),
            )
        record_run(stores.ledger, persisted)
    seconds = time.perf_counter() - started
    log_committed(context.log, persisted, state)
    yield dg.Output(None, "result", metadata=metadata_of_run(persisted, state, seconds, settings))
    for result in results:
        if not result.passed:
            rows = ", ".join(result.failing_rows)
            context.log.error(event("check_failed", check=result.name, message=result.message, rows=rows))
        yield to_asset_check_result(ASSET, result)
    if persisted.remaining:
        _continue_in_next_run(context, persisted)


def _continue_in_next_run(context: dg.OpExecutionContext, persisted: RunReport) -> None:
    snapshot, remaining = persisted.snapshot, persisted.remaining_text
    before = None if snapshot.progress.part else snapshot.announced_before
    config = flush_run_config(FlushMode(snapshot.request.mode), announced_before=before)
    tags = {name: value for name, value in context.run.tags.items() if name in STREAM_TAGS}
    if next_run := queue_next_run(context, remaining, config, tags):
        context.log.info(event("next_run_queued", next_run_id=next_run, remaining=persisted.remaining))
