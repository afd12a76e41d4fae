"""The app of the workers: Celery's command finds it here, in the package that its option -A names.

A worker imports everything before it forks the processes of its pool, each of which executes one run.
"""

from __future__ import annotations

import gc
import logging
import os
from contextlib import suppress
from importlib import import_module
from typing import Any

from celery import Task, signals
from celery.worker.consumer import Consumer
from dagster_celery.config import TASK_EXECUTE_JOB_NAME

from viewer_pipeline.celery_worker.run_execution import execute_run_with_lease
from viewer_pipeline.errors import RunBrokerUnavailable
from viewer_pipeline.logs import configure_package_logging, event
from viewer_pipeline.orchestration.celery.launcher import LeasedCeleryRunLauncher
from viewer_pipeline.orchestration.dagster_home import write_dagster_home
from viewer_pipeline.settings_of_running_up import load_settings_and_find_servers
from viewer_pipeline.stores.celery_broker import REPORT_SECONDS, remove_worker, report_worker

log = logging.getLogger("viewer_pipeline.celery_worker")

settings = load_settings_and_find_servers()
settings.export_to_os_environ()  # for the runs, and so that numpy, which is imported later, starts no threads
write_dagster_home(settings)
broker_url = settings.require_celery_broker_url()
app = LeasedCeleryRunLauncher(settings).celery


@app.task(name=TASK_EXECUTE_JOB_NAME, bind=True)
def execute_job(task: Task, execute_job_args_packed: dict[str, Any]) -> None:
    """Execute a run, unless it is executed already or has ended. The task of dagster-celery, by its name."""
    execute_run_with_lease(settings, execute_job_args_packed, f"{task.request.hostname}, process {os.getpid()}")


@signals.worker_init.connect
def preload(**_: object) -> None:
    """Import what a run needs, before the processes of the pool are forked. Celery logs an error of it."""
    import_module("viewer_pipeline.code_server.preload")
    gc.collect()
    gc.freeze()  # the collector would write to the pages that the forks share


@signals.setup_logging.connect
def configure_logging(**_: object) -> None:
    """Log as our other processes do. That this is connected keeps Celery from configuring it."""
    configure_package_logging(settings)


@signals.worker_ready.connect
def begin_to_report(sender: Consumer, **_: object) -> None:
    """Report this worker to /health until it ends, by the timer of its event loop."""
    log.info(event("celery_worker_ready", name=sender.hostname, processes=sender.pool.num_processes))
    _report(sender.hostname)
    sender.timer.call_repeatedly(REPORT_SECONDS, _report, args=(sender.hostname,))


@signals.worker_shutting_down.connect
def end_to_report(sender: str, **_: object) -> None:
    """Report that this worker takes no more runs; it waits for those that it executes."""
    log.info(event("celery_worker_stopping", name=sender))
    with suppress(RunBrokerUnavailable):
        remove_worker(broker_url, sender)


def _report(name: str) -> None:
    with suppress(RunBrokerUnavailable):  # Celery logs it, and connects again
        report_worker(broker_url, name)
