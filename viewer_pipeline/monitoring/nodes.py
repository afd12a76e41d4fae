"""One result from those of all nodes of a Redis Cluster. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from viewer_pipeline.checks import STATUSES, CheckResult
from viewer_pipeline.text_formatting import pluralize

Weakness = Callable[[dict[str, Any]], Any]  # of details: a value that is greater where less is guaranteed


def worst_of_nodes(results: Mapping[str, CheckResult], weakness: Weakness = lambda _: 0) -> CheckResult:
    """Return the worst result; of equal ones that with the greatest weakness. It names its node, unless it is alone.

    `results`: by the name of the node, which is empty for a single Redis.
    """
    name, worst = max(results.items(), key=lambda item: (STATUSES.index(item[1].status), weakness(item[1].details)))
    if len(results) == 1 and not name:
        return worst
    details = {**worst.details, "node": name}
    equal = sum(result.status == worst.status for result in results.values())
    if equal == len(results):
        return replace(worst, message=f"{pluralize(equal, 'node')}; {name}: {worst.message}", details=details)
    message = f"{equal} of {pluralize(len(results), 'node')}; {name}: {worst.message}"
    return replace(worst, message=message, details=details)
