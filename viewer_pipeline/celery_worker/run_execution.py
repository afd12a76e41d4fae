"""The execution of a run in a process of a worker's pool: at most once, however often its task is delivered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._cli.api import _execute_run_command_body
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import unpack_value
from dagster._utils.interrupts import capture_interrupts

from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.celery.run_lease import RunLease
from viewer_pipeline.settings import Settings

log = logging.getLogger("viewer_pipeline.celery_worker")

NOT_BEGUN = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)
TRACE_SECONDS = 5.0  # how long the process waits for what the run has left to its threads


def execute_run_with_lease(settings: Settings, packed: Mapping[str, Any], holder: str) -> None:
    """Execute the run of a task if this process gets its lease, and nobody has begun it.

    A task is delivered again if its worker was lost, or if the run takes longer than the visibility timeout. If the
    first process is alive, or the run has ended, nothing happens. If it died before it began, the run is executed
    here; if it died later, the run is reported as failed: the next one resumes.

    SIGTERM cancels the run, whenever it comes.
    """
    run_id = unpack_value(packed, as_type=ExecuteRunArgs).run_id
    lease = RunLease(settings, run_id, holder)
    with capture_interrupts(), dg.DagsterInstance.get() as instance:
        if not lease.claim():
            log.warning(event("run_delivered_again", run_id=run_id, reason="another process executes it"))
            return
        try:
            run = instance.get_run_by_id(run_id)
            if run is not None and run.status in NOT_BEGUN:
                with lease.renewed():
                    _execute_run_command_body(run_id, instance, lambda _: None, set_exit_code_on_failure=False)
            elif run is not None and run.status is dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run)
            elif run is not None and not run.is_finished:
                instance.report_run_failed(run, "its process ended: the task was delivered again")
            else:
                log.warning(event("run_delivered_again", run_id=run_id, reason="it has ended"))
        finally:
            lease.release()
    for thread in threading.enumerate():  # the pool ends this process without waiting for them, such as of traces
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(TRACE_SECONDS)
