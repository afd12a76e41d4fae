"""The hook that counts failed flush runs."""

import dagster as dg

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.run_metrics import record_failure
from viewer_pipeline.orchestration.ops import mode_of


@dg.failure_hook(required_resource_keys={"settings"})
def count_failure(context: dg.HookContext) -> None:
    """Count the run as failed in the run metrics. Called once its step has failed for good, not before a retry."""
    run = context.instance.get_run_by_id(context.run_id)
    record_failure(Ledger.of(context.resources.settings), mode_of(run.run_config if run else {}))
