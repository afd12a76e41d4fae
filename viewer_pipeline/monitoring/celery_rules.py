"""The rule of the Celery workers that execute runs."""

from __future__ import annotations

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.stores.celery_broker import BrokerReading
from viewer_pipeline.text_formatting import pluralize

START_WORKER = "start `celery -A viewer_pipeline.celery_worker worker` with the settings of the daemon"


def evaluate_celery(reading: BrokerReading) -> CheckResult:
    """Whether some worker executes runs."""
    details = {"workers": list(reading.workers), "waiting_runs": reading.waiting}
    waiting = f"{pluralize(reading.waiting, 'run')} waiting"
    if not reading.workers:
        return CheckResult("celery", "unhealthy", f"no Celery worker executes runs; {waiting}", details, START_WORKER)
    return CheckResult("celery", "healthy", f"{pluralize(len(reading.workers), 'worker')}; {waiting}", details)
