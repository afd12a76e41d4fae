"""A check result of ours as the result of an asset check."""

import dagster as dg

from viewer_pipeline.checks import CheckResult


def check_result(asset: str, result: CheckResult) -> dg.AssetCheckResult:
    """Return what the UI shows: passed or not, what was compared, and the failing rows where there are any."""
    metadata = {name: dg.MetadataValue.json(value) for name, value in result.details.items()}
    return dg.AssetCheckResult(
        passed=result.passed,
        asset_key=asset,
        check_name=result.name,
        description=result.message,
        metadata=metadata,
    )
