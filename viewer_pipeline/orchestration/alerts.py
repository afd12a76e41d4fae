"""The sensor that tells of runs that failed."""

import re
from datetime import UTC, datetime

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

from viewer_pipeline.logs import event
from viewer_pipeline.orchestration import decorators
from viewer_pipeline.orchestration.trigger import TRIGGER_TAG, trigger_of
from viewer_pipeline.orchestration.webhook import post
from viewer_pipeline.settings import load_settings, without_password

SENTENCE_CHARACTERS = 300
_CLASS = re.compile(r"^[\w.]+: ")  # of the exception, in front of what it says


@decorators.run_failure_sensor(  # of no jobs by name: of all runs of this code location, also those of no job of ours
    name="run_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
)
def run_failure(context: dg.RunFailureSensorContext) -> None:
    """Log one line for each run that failed for good, and post it as JSON where `ALERT_WEBHOOK_URL` is set.

    Also for what was materialized by hand, and for backfills.

    A flush that fails loses nothing, the next one goes on; several in a row need a person.
    """
    said = told(context)
    run = context.dagster_run
    if TRIGGER_TAG not in run.tags:  # it failed before it came to a step; retention knows it as ours by this
        context.instance.add_run_tags(run.run_id, {TRIGGER_TAG: said["why"]})
    context.log.error(str(event("run failed", **said)))
    if url := load_settings().alert_webhook_url:
        text = f"Viewer Pipeline: run {said['run'][:8]} of {said['job']} failed: {said['reason']}"
        at = datetime.now(UTC).isoformat(timespec="seconds")
        if wrong := post(url, {"text": text, "event": "run_failed", "at": at, **said}):
            context.log.warning(str(event("alert not delivered", run=said["run"], reason=wrong)))


def told(context: dg.RunFailureSensorContext) -> dict[str, str]:
    """Return what there is to say of a run: no password in it."""
    run = context.dagster_run
    errors = [one.step_failure_data.error for one in context.get_step_failure_events()]
    known = [reason_of(error) for error in errors if error is not None]
    reason = known[0] if known else context.failure_event.message or "no reason is recorded"
    return {
        "job": launched(run),
        "run": run.run_id,
        "why": without_password(trigger_of(run.tags)),
        "reason": without_password(reason.strip().partition("\n")[0])[:SENTENCE_CHARACTERS],
    }


def launched(run: dg.DagsterRun) -> str:
    """Return the name of the job; where it is none of ours but *Materialize* in the UI, those of the assets."""
    if not run.job_name.startswith("__"):
        return run.job_name
    return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())) or "all assets"


def reason_of(error: SerializableErrorInfo) -> str:
    """Return the sentence of the first error that is made for people, else of the innermost."""
    chain = [error]
    while chain[-1].cause is not None:
        chain.append(chain[-1].cause)
    ours = [one for one in chain if one.message.startswith("viewer_pipeline.errors.")]
    return _CLASS.sub("", (ours or chain[::-1])[0].message.strip())
