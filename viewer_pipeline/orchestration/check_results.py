"""A `CheckResult` as the result of an asset check in Dagster."""

import dagster as dg

from viewer_pipeline.checks import CheckResult


def check_result(asset: str, result: CheckResult) -> dg.AssetCheckResult:
    """Return the result with its message as description, and its details, such as failing rows, as metadata."""
    metadata = {name: dg.MetadataValue.json(value) for name, value in result.details.items()}
    return dg.AssetCheckResult(
        passed=result.passed,
        asset_key=asset,
        check_name=result.name,
        description=result.message,
        metadata=metadata,
    )
