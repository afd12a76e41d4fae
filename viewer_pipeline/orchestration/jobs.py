"""The flush job, and what its launchers share."""

from typing import Any

import dagster as dg

from viewer_pipeline.orchestration.assets import view_counts
from viewer_pipeline.orchestration.hooks import count_failure
from viewer_pipeline.orchestration.ops import ASSET, FlushMode

# dagster.yaml lets one run with this tag go at a time; one that hangs must not hold the others up for long.
JOB_TAG = {"viewer/job": "flush", "dagster/max_runtime": "300"}
# Not NOT_STARTED: a launcher that died right after it made a run leaves that for ever, and nothing clears it.
ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

flush_views = dg.define_asset_job(
    "flush_views",
    selection=[view_counts],
    description="Carry pending views from Redis to PostgreSQL: drain, aggregate, bulk upsert, verify. One process.",
    executor_def=dg.in_process_executor,
    tags=JOB_TAG,
    hooks={count_failure},
)


def flush_run_config(mode: FlushMode, vod_ids: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the run config of `flush_views`, whose lines go to stderr in our format."""
    return {
        "ops": {ASSET: {"config": {"mode": mode.name, "vod_ids": list(vod_ids)}}},
        "loggers": {"console": {"config": {}}},
    }


def flush_request(mode: FlushMode, why: str) -> dg.RunRequest:
    """Return a request for a flush run whose tag says why it is made."""
    return dg.RunRequest(run_config=flush_run_config(mode), tags={"viewer/trigger": why})


def blocking_run(instance: dg.DagsterInstance, job: str = flush_views.name) -> str | None:
    """Return why no run of a job should be launched now: one is queued or running. None when the way is free."""
    filters = dg.RunsFilter(job_name=job, statuses=ACTIVE)
    for record in instance.get_run_records(filters, limit=1):
        run, what = record.dagster_run, "flush run" if job == flush_views.name else f"run of {job}"
        return f"{what} {run.run_id[:8]} is {run.status.value.lower().replace('_', ' ')}"
    return None


def is_flushing(instance: dg.DagsterInstance) -> bool:
    """Whether a flush run is at work, or about to be."""
    going_on = [status for status in ACTIVE if status is not dg.DagsterRunStatus.QUEUED]
    return instance.get_runs_count(dg.RunsFilter(job_name=flush_views.name, statuses=going_on)) > 0
