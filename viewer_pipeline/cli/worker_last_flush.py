"""The last flush of a worker that stops: pending views should not wait for its next start."""

from __future__ import annotations

import logging
import time
from math import ceil

from viewer_pipeline.errors import NotFlushed
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.sweep_need import evaluate_sweep_need
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings

log = logging.getLogger("viewer_pipeline.worker")

POLL_SECONDS = 0.2
MIN_RUN_SECONDS = 1.0  # the shortest run; one that cannot end in time is not started


def run_worker_last_flush(settings: Settings, monotonic_deadline: float) -> str:
    """Sweep in this process, recorded in Dagster's history, if views are pending; return the outcome as text.

    A running flush gets half of the remaining time to end first; two at once would be exact as well.
    Raises ViewerPipelineError, NotFlushed where time ran out; pending views stay in Redis.
    """
    with Stores.open(settings) as stores:
        precheck = evaluate_sweep_need(stores)
    log.debug(event("last_flush_decided", needed=precheck.is_needed, reason=precheck.reason))
    if not precheck.is_needed:
        return "nothing was pending"
    from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG

    from viewer_pipeline.cli.in_process_runs import run_flushes  # imports Dagster: 2 s
    from viewer_pipeline.orchestration.dagster_instance import open_instance
    from viewer_pipeline.orchestration.flush_job import is_flush_run_launched
    from viewer_pipeline.orchestration.flush_ops import FlushMode

    with open_instance(settings) as instance:
        wait_until = time.monotonic() + (monotonic_deadline - time.monotonic()) / 2
        while is_flush_run_launched(instance) and time.monotonic() < wait_until:
            time.sleep(POLL_SECONDS)

        def tags() -> dict[str, str]:
            if (remaining := monotonic_deadline - time.monotonic()) < MIN_RUN_SECONDS:
                raise NotFlushed("there was no time left to flush it")
            # If this process ends before its run, Dagster's monitor fails the run at this time and not after
            # `max_runtime_seconds`; sensor and sweep wait for the run until then.
            return {MAX_RUNTIME_SECONDS_TAG: str(ceil(remaining))}

        trigger, views = "shutdown: remaining views", 0
        for result in run_flushes(instance, settings, FlushMode.sweep, trigger=trigger, tags=tags, logged=True):
            if not result.success:
                raise NotFlushed(f"run {result.run_id} failed")
            views += result.stats.get("views", 0)
    return f"flushed the remaining views: {views}, run {result.run_id}"
