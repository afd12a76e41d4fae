"""The hook: what happens when a step of a flush run has failed for good."""

import dagster as dg

from viewer_pipeline.flush.run_metrics import record_failure
from viewer_pipeline.orchestration.ops import mode_of


@dg.failure_hook(required_resource_keys={"postgres"})
def count_failure(context: dg.HookContext) -> None:
    """Add the run to the sums for metrics as failed. An attempt that is retried does not come here."""
    run = context.instance.get_run_by_id(context.run_id)
    record_failure(context.resources.postgres.ledger(), mode_of(run.run_config if run else {}))
