"""Dagster's Celery launcher, with the lease of a run, which shows whether its process is alive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError

from viewer_pipeline.errors import RunBrokerUnavailable
from viewer_pipeline.orchestration.celery.configuration import CONFIGURATION
from viewer_pipeline.orchestration.celery.run_lease import RunLease
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.celery_broker import BROKER_REMEDY, QUEUE

NOT_TAKEN = "no Celery worker executes it: check that one runs, and has a free process (--concurrency)"


class LeasedCeleryRunLauncher(CeleryRunLauncher):
    """Sends runs to Celery workers (docs/how-to/celery.md).

    The launcher of dagster-celery takes a run whose worker was killed for running until its maximum runtime, because
    Celery does not tell. The lease of the run does.
    """

    def __init__(self, settings: Settings, inst_data: ConfigurableClassData | None = None) -> None:
        """`settings`: with CELERY_BROKER_URL."""
        self._settings = settings
        self._broker_url = settings.require_celery_broker_url()
        super().__init__(QUEUE, broker=self._broker_url, config_source=CONFIGURATION, inst_data=inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Not used: `RunLauncherOfSettings` creates it."""
        raise NotImplementedError

    @property
    def supports_resume_run(self) -> bool:
        """A run is not resumed: the next one is as good, and settles what this one has committed."""
        return False

    def terminate(self, run_id: str) -> bool:
        """Cancel the run: have its process end it, or report it as canceled if no process executes it."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or DAGSTER_CELERY_TASK_ID_TAG not in run.tags:
            return False
        self._instance.report_run_canceling(run)
        lease = RunLease(self._settings, run_id, "canceled")
        if lease.claim():  # no worker executes it, and none can from now on
            self._instance.report_run_canceled(run)
            lease.release()
            return True
        with self._broker_errors():
            self.celery.control.revoke(run.tags[DAGSTER_CELERY_TASK_ID_TAG], terminate=True)
        return True

    def _launch_celery_task_run(self, run: dg.DagsterRun, task_signature: Any, routing_key: str) -> None:
        """Send the task. Raises RunBrokerUnavailable, with which Dagster reports the run as failed.

        A task that waits for longer than the run may is discarded: Dagster has reported the run as failed by then.
        """
        expiring = task_signature.set(expires=self._instance.run_monitoring_start_timeout_seconds)
        with self._broker_errors():
            super()._launch_celery_task_run(run, expiring, routing_key)

    @contextmanager
    def _broker_errors(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            raise RunBrokerUnavailable(f"{redact_text(self._broker_url)}: {error}", BROKER_REMEDY) from error

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:  # noqa: ARG002 - of Dagster
        """Return who executes the run, for the message with which Dagster reports it as failed."""
        holder = RunLease(self._settings, run.run_id).read_holder()
        return f"executed by {holder.name}" if holder else NOT_TAKEN

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run is alive, by its lease."""
        if DAGSTER_CELERY_TASK_ID_TAG not in run.tags:  # such as that of `viewer-pipeline flush`
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        lease = RunLease(self._settings, run.run_id)
        holder = lease.read_holder()
        if holder is None:
            return CheckRunHealthResult(WorkerStatus.FAILED, "no Celery worker executes it any more")
        if holder.is_expired and lease.end_if_expired():
            message = f"its process does not answer: {holder.name}, last renewed {holder.seconds:.0f} s ago"
            return CheckRunHealthResult(WorkerStatus.FAILED, message)
        return CheckRunHealthResult(WorkerStatus.RUNNING, holder.name)
