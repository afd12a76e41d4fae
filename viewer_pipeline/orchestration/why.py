"""Why a run ran, in words: the tag `viewer/why`. Sensors and schedules set it; here for who does not."""

import dagster as dg

from viewer_pipeline.orchestration.partitions import RANGE_END, RANGE_START

WHY = "viewer/why"


def say_why(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> None:
    """Tag the run, unless whoever launched it did."""
    tags = context.run.tags
    if WHY not in tags:
        context.instance.add_run_tags(context.run.run_id, {WHY: _why(dict(tags))})


def _why(tags: dict[str, str]) -> str:
    if backfill := tags.get("dagster/backfill"):
        days = f" of {tags[RANGE_START]} to {tags[RANGE_END]}" if RANGE_START in tags and RANGE_END in tags else ""
        return f"backfill {backfill}{days}"
    if parent := tags.get("dagster/parent_run_id"):
        return f"by hand: run {parent[:8]} again"
    return "by hand"
