"""Why a run ran, in words: the tag `viewer/trigger`. Sensors and schedules set it; here for who does not."""

from collections.abc import Mapping

import dagster as dg

from viewer_pipeline.orchestration.partitions import RANGE_END, RANGE_START

TRIGGER_TAG = "viewer/trigger"


def tag_trigger(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> None:
    """Tag the run, unless whoever launched it did."""
    if TRIGGER_TAG not in context.run.tags:
        context.instance.add_run_tags(context.run.run_id, {TRIGGER_TAG: trigger_of(context.run.tags)})


def trigger_of(tags: Mapping[str, str]) -> str:
    """Return what the tag of a run with these tags says, or should say."""
    if TRIGGER_TAG in tags:
        return tags[TRIGGER_TAG]
    if backfill := tags.get("dagster/backfill"):
        days = f" of {tags[RANGE_START]} to {tags[RANGE_END]}" if RANGE_START in tags and RANGE_END in tags else ""
        return f"backfill {backfill}{days}"
    if parent := tags.get("dagster/parent_run_id"):
        return f"by hand: run {parent[:8]} again"
    return "by hand"
