"""Reconciliation as an asset: run by hand; its checks fail for differences."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.run_trigger_tag import tag_run_with_trigger
from viewer_pipeline.orchestration.settings_resource import SettingsResource
from viewer_pipeline.orchestration.step_errors_and_cancellation import handle_errors_and_cancellation
from viewer_pipeline.orchestration.ui_metadata import round_seconds, to_asset_check_result, to_table_metadata
from viewer_pipeline.orchestration.view_counts_asset import OWNERS
from viewer_pipeline.reconcile.reconciliation import CHECKS, ReconcileRequest, ReconcileResult
from viewer_pipeline.reconcile.reconciliation import reconcile as compare

NAME = "reconciliation"
MAX_RUN_SECONDS = 3600  # longer than a flush, since it reads everything

CHECK_DESCRIPTIONS = {
    "totals_equal_history": "Every total equals baseline + daily views + ledger, less parked views.",
    "held_views_are_accounted_for": "What flushes have held is in viewer.held, or somebody decided about it.",
    "target_equals_totals": "Every count of the target table equals its total. Only with TARGET_EXCLUSIVE=true.",
    "marker_follows_ledger": "The marker in Redis exists, and is neither ahead of nor behind the ledger.",
    "counters_are_counts": "No counter in Redis has a value, type or id that cannot be counted.",
    "nothing_waits_for_its_row": "No parked views could be counted into the target table now.",
}


class ReconcileConfig(dg.Config):
    """Options of a reconciliation."""

    repair: bool = Field(default=False, description="repair what can be explained; each repair is in the ledger")


@dg.asset(
    name=NAME,
    group_name=NAME,
    kinds={"postgres", "redis"},
    owners=OWNERS,
    check_specs=[dg.AssetCheckSpec(name, asset=NAME, description=CHECK_DESCRIPTIONS[name]) for name in CHECKS],
)
def reconciliation(
    context: dg.AssetExecutionContext, config: ReconcileConfig, settings: SettingsResource
) -> Iterator[Any]:
    """Comparison of persisted counts with their history. Run it by hand, at any time.

    Totals against baseline, daily views and ledger; the target table against the totals; the marker against the
    ledger; counters in Redis; parked views. Flushes may run meanwhile. With `repair` it repairs what can be explained,
    in transactions that are in the ledger (`viewer-pipeline reconcile --undo SEQ` takes one back).
    """
    tag_run_with_trigger(context)
    request = ReconcileRequest.of(settings, context.run.run_id, repair=config.repair)
    with handle_errors_and_cancellation(context), Stores.open(settings) as stores:
        result = compare(stores, request, lambda step: context.log.info(event("comparing", part=step)))
    for note in result.notes:
        context.log.warning(event("reconciliation_note", note=note))
    checked = [to_asset_check_result(NAME, check) for check in result.checks()]
    yield dg.MaterializeResult(metadata=_metadata(result), check_results=checked)


reconcile_job = dg.define_asset_job(
    "reconcile",
    selection=[reconciliation],
    description="Compare persisted counts with their history, and repair them on request. One process.",
    tags={"viewer/job": "reconciliation", "dagster/max_runtime": str(MAX_RUN_SECONDS)},
)


def _metadata(result: ReconcileResult) -> dict[str, Any]:
    columns = dict.fromkeys(("kind", "vod_id", "expected", "actual", "message"), "string")
    return {
        "differences": sum(result.differences.values()),
        "repaired": sum(result.repaired.values()),
        "remaining": result.remaining,
        **{f"{kind}_differences": count for kind, count in result.differences.items()},
        "rejected": result.rejected,
        "vods": result.vods,
        "seconds": round_seconds(result.seconds),
        "flushes": dg.MetadataValue.json(result.flushes),
        "notes": "; ".join(result.notes) or "nothing out of the ordinary",
        "report": dg.MetadataValue.path(str(result.report)),
        "first_differences": to_table_metadata(columns, (row[:5] for row in result.first_differences)),
    }
