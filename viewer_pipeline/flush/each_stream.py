"""The steps of a run for several streams at once: they never wait for each other, but for one scan of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.aggregate import Aggregate, aggregate
from viewer_pipeline.flush.combined_report import combine_checks
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.shared_scan import SharedScan
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.verify import verify

Work = TypeVar("Work")
Result = TypeVar("Result")


def for_each_stream(step: Callable[[Work], Result], work: Sequence[Work]) -> list[Result]:
    """Return the result of each, in order; each is done on a thread of its own, one alone on this thread.

    Raises the first error, once all have ended: what the others have committed is settled.
    """
    if len(work) == 1:
        return [step(work[0])]
    with ThreadPoolExecutor(len(work) or 1, "stream") as threads:
        return list(threads.map(step, work))


def drain_each_stream(streams: Sequence[Stores], request: FlushRequest) -> list[Snapshot]:
    """Drain all these streams. Raises as `for_each_stream` does."""
    scan = SharedScan(len(streams)) if len(streams) > 1 and request.mode == "sweep" else None

    def drain_stream(stores: Stores) -> Snapshot:
        try:
            return drain(stores, replace(request, shared_scan=scan))
        except BaseException:
            if scan is not None:
                scan.abandon()
            raise

    return for_each_stream(drain_stream, streams)


def aggregate_each_stream(snapshots: Sequence[Snapshot]) -> list[Aggregate]:
    """Aggregate what was read of each stream."""
    return for_each_stream(aggregate, [snapshot.readings for snapshot in snapshots])


def upsert_each_stream(
    stores: Stores, snapshots: Sequence[Snapshot], aggregates: Sequence[Aggregate]
) -> list[RunReport]:
    """Commit and settle what was read of each stream. Raises as `for_each_stream` does."""

    def upsert_stream(work: tuple[Snapshot, Aggregate]) -> RunReport:
        snapshot, aggregated = work
        return bulk_upsert(stores.of_stream(snapshot.request.stream), snapshot, aggregated)

    return for_each_stream(upsert_stream, list(zip(snapshots, aggregates, strict=True)))


def verify_each_stream(stores: Stores, reports: Sequence[RunReport]) -> list[CheckResult]:
    """Verify what each stream has committed; return one result for each check."""

    def verify_stream(report: RunReport) -> tuple[str, list[CheckResult]]:
        stream = report.snapshot.request.stream
        return stream.name, verify(stores.of_stream(stream), report)

    return combine_checks(for_each_stream(verify_stream, reports))
