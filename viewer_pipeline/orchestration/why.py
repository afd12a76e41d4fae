"""Why a run ran, in words: the tag `viewer/why`. Sensors and schedules set it; here for who does not."""

from collections.abc import Mapping

import dagster as dg

from viewer_pipeline.orchestration.partitions import RANGE_END, RANGE_START

WHY = "viewer/why"


def say_why(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> None:
    """Tag the run, unless whoever launched it did."""
    if WHY not in context.run.tags:
        context.instance.add_run_tags(context.run.run_id, {WHY: why_of(context.run.tags)})


def why_of(tags: Mapping[str, str]) -> str:
    """Return what the tag of a run with these tags says, or should say."""
    if WHY in tags:
        return tags[WHY]
    if backfill := tags.get("dagster/backfill"):
        days = f" of {tags[RANGE_START]} to {tags[RANGE_END]}" if RANGE_START in tags and RANGE_END in tags else ""
        return f"backfill {backfill}{days}"
    if parent := tags.get("dagster/parent_run_id"):
        return f"by hand: run {parent[:8]} again"
    return "by hand"
