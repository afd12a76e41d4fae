"""The run that continues where a flush run ended, because counters remain."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.origin import JobPythonOrigin
from dagster._core.remote_origin import RemoteJobOrigin
from dagster._core.run_coordinator import QueuedRunCoordinator

from viewer_pipeline.orchestration.run_trigger_tag import TRIGGER_TAG

FLUSH_JOB = "flush_views"


def queue_next_run(
    context: dg.OpExecutionContext, remaining: str, run_config: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    """Put a run of the flush job with these tags into Dagster's queue, which launches it when this one has ended.

    Returns its id.

    Empty for a run that no code server launched: who executes it in a process of its own also executes the next one.
    And for an instance without a queue, where the sensor launches the next run at its next tick.
    """
    run = context.run
    is_queue = isinstance(context.instance.run_coordinator, QueuedRunCoordinator)
    if run.remote_job_origin is None or run.job_code_origin is None or not is_queue:
        return ""
    job = context.repository_def.get_job(FLUSH_JOB)
    created = context.instance.create_run_for_job(
        job,
        run_config=run_config,
        tags={**job.run_tags, **tags, TRIGGER_TAG: f"run {run.run_id[:8]}: {remaining}"},
        remote_job_origin=RemoteJobOrigin(run.remote_job_origin.repository_origin, FLUSH_JOB),
        job_code_origin=JobPythonOrigin(FLUSH_JOB, run.job_code_origin.repository_origin),
    )
    context.instance.submit_run(created.run_id, workspace=None)  # type: ignore[arg-type] # the queue needs none
    return created.run_id
