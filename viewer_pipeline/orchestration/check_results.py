"""A verdict as the result of an asset check."""

import dagster as dg

from viewer_pipeline.flush.steps import Verdict


def check_result(asset: str, verdict: Verdict) -> dg.AssetCheckResult:
    """Return what the UI shows: passed or not, what was compared, and the offenders where there are any."""
    return dg.AssetCheckResult(
        passed=verdict.passed,
        asset_key=asset,
        check_name=verdict.name,
        description=verdict.said,
        metadata={"offenders": dg.MetadataValue.json(verdict.offenders)} if verdict.offenders else {},
    )
