"""The steps of a run for several streams at once: they never wait for each other, but for one scan of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.shared_scan import SharedScan
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores

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
