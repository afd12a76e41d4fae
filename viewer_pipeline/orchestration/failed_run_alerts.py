"""The sensor that reports failed runs."""

import logging

import dagster as dg

from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.recorded_errors import launch_error, own_or_innermost_error
from viewer_pipeline.orchestration.run_trigger_tag import TRIGGER_TAG, trigger_of_run_tags
from viewer_pipeline.orchestration.sensor_and_schedule_decorators import run_failure_sensor
from viewer_pipeline.orchestration.settings_resource import SettingsResource
from viewer_pipeline.orchestration.webhook import post_json_or_error
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.time_formatting import format_timestamp

log = logging.getLogger("viewer_pipeline.alerts")

MAX_REASON_CHARACTERS = 300


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


def job_name_or_asset_names(run: dg.DagsterRun) -> str:
    """Return the name of the job; for *Materialize* in the UI, which has none of ours, those of the assets."""
    if not run.job_name.startswith("__"):
        return run.job_name
    return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())) or "all assets"
