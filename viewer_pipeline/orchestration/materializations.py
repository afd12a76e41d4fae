"""When the totals were last up to date: the latest materialization of `view_counts`."""

from datetime import UTC, datetime

import dagster as dg

ASSET = "view_counts"


def last_reading(instance: dg.DagsterInstance) -> datetime | None:
    """Return when the counters of the latest materialization were read; None if there is none."""
    event = instance.get_latest_materialization_event(dg.AssetKey(ASSET))
    materialization = event.asset_materialization if event else None
    taken_at = materialization.metadata.get("taken_at") if materialization else None
    return datetime.fromtimestamp(taken_at.value, UTC) if isinstance(taken_at, dg.TimestampMetadataValue) else None
