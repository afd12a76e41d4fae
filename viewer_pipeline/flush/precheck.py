"""Whether there is work for a sweep. Checked before a run is launched, because a run costs seconds of CPU."""

from __future__ import annotations

from dataclasses import dataclass

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.counter_reader import SCAN_COUNT
from viewer_pipeline.flush.rejects import Reject, unrecorded
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.target.parked import ready_parked

MAX_SCANS = 1000  # a million keys, about a second


@dataclass(frozen=True)
class PendingWork:
    """Whether a sweep would persist or record something, as far as a bounded scan shows, and the reason."""

    exists: bool
    reason: str


def find_pending_work(stores: Stores, max_scans: int = MAX_SCANS) -> PendingWork:
    """Scan for counters that a sweep would persist, parked views that it would count, and unrecorded rejects.

    Writes nothing but the cursor of the scan of parked views.
    """
    rejects: list[Reject] = []
    for scans, ids in enumerate(stores.redis.swept(), 1):
        if ids:
            aggregated = aggregate(stores.redis.read([ids]))
            if len(aggregated.frame):
                return PendingWork(True, f"found counters to flush, e.g. {aggregated.frame['vod_id'].iloc[0]!r}")
            rejects += aggregated.rejects
        if scans >= max_scans:
            return PendingWork(True, f"no counter among the first {scans * SCAN_COUNT} keys; a sweep scans the rest")
    with stores.ledger.connect() as connection:
        target = stores.ledger.target(connection)
        if target and (parked := ready_parked(connection, target)):
            return PendingWork(True, f"found {len(parked)} parked VODs whose row exists by now, e.g. {parked[0]!r}")
        if rejects and (fresh := unrecorded(connection, rejects)):
            return PendingWork(True, f"found counters to reject, e.g. {fresh[0].subject!r}: {fresh[0].reason}")
    known = f", beside {len(rejects)} rejected ones" if rejects else ""
    return PendingWork(False, f"no key {stores.redis.prefix_text}* holds views{known}: nothing to flush")
