"""The assets `redis_counters` and `view_counts`."""

from typing import Any

import dagster as dg

from viewer_pipeline.flush.verify import CHECKS
from viewer_pipeline.orchestration.flush_ops import (
    FlushConfig,
    aggregate_counts,
    bulk_upsert,
    drain_counters,
    verify_consistency,
)
from viewer_pipeline.orchestration.materializations import ASSET, freshness_policy
from viewer_pipeline.orchestration.partitions import IN_ONE_RUN
from viewer_pipeline.orchestration.settings_resource import LOADED
from viewer_pipeline.orchestration.stream_partitions import STREAMS

GROUP = "views"
OWNERS = ["team:viewer-pipeline"]

CHECK_DESCRIPTIONS = {
    "ledger_equals_frame": "Every batch in the ledger equals its rows of the DataFrame.",
    "redis_is_settled": "The marker in Redis is at the last batch of the last flush, so no view shows twice.",
    "totals_carry_the_flush": "Every total of a flushed VOD includes this flush or a later one.",
    "no_drift": "No counter held fewer views than were read from it. Fails if another program lowered a counter.",
}

redis_counters = dg.AssetSpec(
    "redis_counters",
    group_name=GROUP,
    owners=OWNERS,
    kinds={"redis"},
    description="Views not yet in PostgreSQL: Redis strings `vod:views:<vodId>`, incremented by the producers.",
)


@dg.config_mapping
def flush_config(config: FlushConfig) -> dict[str, Any]:
    """Pass the run config of the asset to its first step."""
    return {"drain_counters": {"config": {**config.model_dump(), "mode": config.mode.name}}}


@dg.graph_asset(
    name=ASSET,
    group_name=GROUP,
    kinds={"redis", "postgres", "pandas"},
    ins={"redis_counters": dg.AssetIn("redis_counters", dagster_type=dg.Nothing)},
    config=flush_config,
    partitions_def=STREAMS,
    backfill_policy=IN_ONE_RUN if STREAMS else None,
    check_specs=[
        dg.AssetCheckSpec(name, asset=ASSET, description=CHECK_DESCRIPTIONS[name], partitions_def=STREAMS)
        for name in CHECKS
    ],
)
def view_counts(redis_counters: Any) -> dict[str, Any]:
    """Persisted view count of each VOD, in the table `viewer.vod_view_counts`.

    Each materialization carries the views that arrived in Redis since the last one to PostgreSQL, exactly once.
    Materialize it at any time, as often as you like, also while another run is active. Config `mode`: `changed`
    (announced VODs) or `sweep` (all counters); `vod_ids` limits the run to these VODs.
    """
    snapshots = drain_counters(redis_counters)
    verified = verify_consistency(bulk_upsert(snapshots, aggregate_counts(snapshots)))
    return {"result": verified.result, **{f"{ASSET}_{name}": getattr(verified, name) for name in CHECKS}}


TABLE = {"dagster/table_name": "viewer.vod_view_counts"}
FRESH = freshness_policy(LOADED)
view_counts = view_counts.map_asset_specs(  # graph_asset takes none of these
    lambda spec: spec.replace_attributes(freshness_policy=FRESH, owners=OWNERS, metadata={**spec.metadata, **TABLE})
)
