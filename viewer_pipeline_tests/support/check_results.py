"""Results of checks, by name."""

from __future__ import annotations

from collections.abc import Iterable

from viewer_pipeline.checks import CheckResult


def by_name(results: Iterable[CheckResult]) -> dict[str, CheckResult]:
    """Return results by name; each name occurs once."""
    results = list(results)
    named = {result.name: result for result in results}
    assert len(named) == len(results)
    return named
