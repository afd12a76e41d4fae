"""The flush job, and how its runs are requested."""

from collections.abc import Sequence

import dagster as dg

from viewer_pipeline.flush.run_metrics import record_failure
from viewer_pipeline.orchestration.flush_ops import flush_mode_of
from viewer_pipeline.orchestration.next_flush_run import FLUSH_JOB
from viewer_pipeline.orchestration.stream_partitions import ALL, STREAM_TAG
from viewer_pipeline.orchestration.view_counts_asset import view_counts

# dagster.yaml limits runs of a stream to one at a time; a hanging run must not block the others for long.
JOB_TAG = {"viewer/job": "flush", STREAM_TAG: ALL, "dagster/max_runtime": "300"}
# Without NOT_STARTED: a launcher that dies right after it created a run leaves that status for ever.
LAUNCHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
ACTIVE = [dg.DagsterRunStatus.QUEUED, *LAUNCHED]


@dg.failure_hook(required_resource_keys={"stores"})
def count_failed_run(context: dg.HookContext) -> None:
    """Count the run as failed in the run metrics. Called once its step has failed for good, not before a retry."""
    run = context.instance.get_run_by_id(context.run_id)
    record_failure(context.resources.stores.ledger, flush_mode_of(run.run_config if run else {}))


flush_views = dg.define_asset_job(
    FLUSH_JOB,
    selection=[view_counts],
    description="Carry pending views from Redis to PostgreSQL: drain, aggregate, bulk upsert, verify. One process.",
    tags=JOB_TAG,
    hooks={count_failed_run},
)


def describe_blocking_run(
    instance: dg.DagsterInstance, job: str = flush_views.name, streams: Sequence[str] = ()
) -> str | None:
    """Return which run blocks another one of this job, as a skip reason: one that is queued or active. Else None.

    `streams`: only runs whose tag `viewer/stream` is one of these.
    """
    tags = {STREAM_TAG: list(streams)} if streams else {}
    filters = dg.RunsFilter(job_name=job, statuses=ACTIVE, tags=tags)
    for record in instance.get_run_records(filters, limit=1):
        run, noun = record.dagster_run, "flush run" if job == flush_views.name else f"run of {job}"
        return f"{noun} {run.run_id[:8]} is {run.status.value.lower().replace('_', ' ')}"
    return None


def is_flush_run_launched(instance: dg.DagsterInstance) -> bool:
    """Whether a flush run is active; queued runs do not count."""
    return instance.get_runs_count(dg.RunsFilter(job_name=flush_views.name, statuses=LAUNCHED)) > 0
