"""The sensor that reports failed runs."""

import logging
import re
from itertools import pairwise

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.run_trigger_tag import TRIGGER_TAG, trigger_of_run_tags
from viewer_pipeline.orchestration.sensor_and_schedule_decorators import run_failure_sensor
from viewer_pipeline.orchestration.settings_resource import SettingsResource
from viewer_pipeline.orchestration.webhook import post_json_or_error
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.time_formatting import format_timestamp

log = logging.getLogger("viewer_pipeline.alerts")

MAX_REASON_CHARACTERS = 300
_EXCEPTION_CLASS = re.compile(r"^[\w.]+: ")  # in front of the message


# Monitors no job by name: all runs of this code location, of our jobs or not.
@run_failure_sensor(name="run_failure", minimum_interval_seconds=30)
def run_failure(context: dg.RunFailureSensorContext, settings: SettingsResource) -> None:
    """Log one line for each run that failed after its retries, and post it as JSON if `ALERT_WEBHOOK_URL` is set.

    Also for backfills and for runs started with Materialize.

    A failed flush loses nothing: the next run flushes the views. Act if several fail in a row.
    """
    alert = describe_failed_run(context)
    run = context.dagster_run
    if TRIGGER_TAG not in run.tags:  # it failed before its first step; the tag makes it ours for retention
        context.instance.add_run_tags(run.run_id, {TRIGGER_TAG: alert["trigger"]})
    log.error(event("run_failed", **alert))
    if url := settings.alert_webhook_url:
        text = f"Viewer Pipeline: run {alert['run_id'][:8]} of {alert['job']} failed: {alert['reason']}"
        payload = {"text": text, "event": "run_failed", "timestamp": format_timestamp(), **alert}
        if reason := post_json_or_error(url, payload):
            log.warning(event("alert_not_delivered", run_id=alert["run_id"], reason=reason))


def describe_failed_run(context: dg.RunFailureSensorContext) -> dict[str, str]:
    """Return job, id, trigger and reason of a failed run, without passwords."""
    run = context.dagster_run
    errors = [step.step_failure_data.error for step in context.get_step_failure_events()]
    errors.append(
        getattr(context.failure_event.event_specific_data, "error", None)
    )  # of a run that failed before its first step
    if not any(errors):
        errors.append(launch_error(context.instance, run.run_id))
    reasons = [own_or_innermost_error(error) for error in errors if error is not None]
    reason = reasons[0] if reasons else context.failure_event.message or "no reason is recorded"
    return {
        "job": job_name_or_asset_names(run),
        "run_id": run.run_id,
        "trigger": redact_text(trigger_of_run_tags(run.tags)),
        "reason": redact_text(reason.strip().partition("\n")[0])[:MAX_REASON_CHARACTERS],
    }


def launch_error(instance: dg.DagsterInstance, run_id: str) -> SerializableErrorInfo | None:
    """Return the error with which a run could not be launched: Dagster records it in the event before the failure."""
    events = [entry.dagster_event for entry in instance.all_logs(run_id)]
    for before, failure in pairwise(events):
        if failure is not None and failure.is_run_failure:
            error: SerializableErrorInfo | None = getattr(before and before.event_specific_data, "error", None)
            return error
    return None


def job_name_or_asset_names(run: dg.DagsterRun) -> str:
    """Return the name of the job; for *Materialize* in the UI, which has none of ours, those of the assets."""
    if not run.job_name.startswith("__"):
        return run.job_name
    return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())) or "all assets"


def own_or_innermost_error(error: SerializableErrorInfo) -> str:
    """Return the message of the first error of this package in the chain of causes, else of the innermost error."""
    return own_error(error) or _EXCEPTION_CLASS.sub("", innermost_error(error).message.strip())


def own_error(error: SerializableErrorInfo | None) -> str:
    """Return the message of the first error of this package in the chain of causes; empty if there is none."""
    while error is not None:
        if error.message.startswith("viewer_pipeline.errors."):
            return _EXCEPTION_CLASS.sub("", error.message.strip())
        error = error.cause
    return ""


def innermost_error(error: SerializableErrorInfo) -> SerializableErrorInfo:
    """Return the error at the end of the chain of causes."""
    while error.cause is not None:
        error = error.cause
    return error
