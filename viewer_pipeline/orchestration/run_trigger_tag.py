"""The trigger of a run: what started it, as the tag `viewer/trigger`.

Sensors and schedules set the tag on their runs; the first step of a run sets it where nothing else has.
"""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import dagster as dg

from viewer_pipeline.orchestration.loggers import LOG_LINES
from viewer_pipeline.orchestration.partitions import RANGE_END, RANGE_START

TRIGGER_TAG = "viewer/trigger"


def build_run_request(
    trigger: str, run_config: Mapping[str, Any] = LOG_LINES, tags: Mapping[str, str] | None = None
) -> dg.RunRequest:
    """Return a request for a run with this trigger."""
    return dg.RunRequest(run_config=run_config, tags={**(tags or {}), TRIGGER_TAG: trigger})


def build_scheduled_run_request(
    reason: str, run_config: Mapping[str, Any] = LOG_LINES, tags: Mapping[str, str] | None = None
) -> dg.RunRequest:
    """Return a request of a schedule for a run.

    Each has a run key of its own. Without one, Dagster launches one run for each scheduled time: not the second of two
    requests, and none when the time comes again after the clock was set back.
    """
    request = build_run_request(f"schedule: {reason}", run_config, tags)
    return request.with_replaced_attrs(run_key=uuid4().hex)


def tag_run_with_trigger(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> None:
    """Tag the run, unless it is tagged."""
    if TRIGGER_TAG not in context.run.tags:
        context.instance.add_run_tags(context.run.run_id, {TRIGGER_TAG: trigger_of_run_tags(context.run.tags)})


def trigger_of_run_tags(tags: Mapping[str, str]) -> str:
    """Return the trigger of a run with these tags."""
    if TRIGGER_TAG in tags:
        return tags[TRIGGER_TAG]
    if backfill := tags.get("dagster/backfill"):
        days = f" of {tags[RANGE_START]} to {tags[RANGE_END]}" if RANGE_START in tags and RANGE_END in tags else ""
        return f"backfill {backfill}{days}"
    if parent := tags.get("dagster/parent_run_id"):
        return f"by hand: run {parent[:8]} again"
    return "by hand"
