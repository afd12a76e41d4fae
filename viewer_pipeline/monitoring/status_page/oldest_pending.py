"""How old the oldest pending view was in the last hours, as the checks of /health have measured it. In memory."""

from __future__ import annotations

import time
from collections.abc import Sequence

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.monitoring.status_page.buckets import bucket_of, last_buckets


class OldestPendingHistory:
    """The greatest age in each bucket. One thread adds; any thread reads."""

    def __init__(self) -> None:
        self.seconds_by_bucket: dict[int, float] = {}  # is replaced, never changed

    def add(self, results: Sequence[CheckResult]) -> None:
        """Add the age that the check `freshness` has measured; nothing where Redis did not answer."""
        for result in results:
            if result.name == "freshness" and "oldest_pending_seconds" in result.details:
                self._add_age(result.details["oldest_pending_seconds"] or 0.0)

    def _add_age(self, age: float) -> None:
        now = time.time()
        buckets, known = last_buckets(now), self.seconds_by_bucket
        ages = {bucket: seconds for bucket, seconds in known.items() if bucket in buckets}
        self.seconds_by_bucket = ages | {bucket_of(now): max(age, known.get(bucket_of(now), 0.0))}
