"""Is there anything for a sweep to do? Asked before a run is launched, because a run costs seconds of CPU."""

from __future__ import annotations

from dataclasses import dataclass

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.ledger import unrecorded
from viewer_pipeline.flush.readings import Reject
from viewer_pipeline.flush.redis_store import SCAN_COUNT
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.target.parked import ready_parked

MAX_SCANS = 1000  # a million keys, about a second


@dataclass(frozen=True)
class Look:
    """Whether a sweep would persist or record something, as far as a bounded scan can tell, and why."""

    work: bool
    said: str


def _ready_parked(stores: Stores) -> list[str]:
    with stores.ledger.connect() as connection:
        target = stores.ledger.target(connection)
        return ready_parked(connection, target) if target else []


def look_for_counters(stores: Stores, max_scans: int = MAX_SCANS) -> Look:
    """Scan for counters that a sweep would persist, parked views that it would count, rejects that are not on record.

    Writes nothing but how far it has looked at parked views.
    """
    rejects: list[Reject] = []
    for scans, ids in enumerate(stores.redis.swept(), 1):
        if ids:
            found = aggregate(stores.redis.read([ids]))
            if len(found.frame):
                return Look(True, f"found counters to flush, e.g. {found.frame['vod_id'].iloc[0]!r}")
            rejects += found.rejects
        if scans >= max_scans:
            return Look(True, f"no counter among the first {scans * SCAN_COUNT} keys; the rest is for a sweep to tell")
    if parked := _ready_parked(stores):
        return Look(True, f"found {len(parked)} parked VODs whose row is there by now, e.g. {parked[0]!r}")
    if rejects:
        with stores.ledger.connect() as connection:
            if fresh := unrecorded(connection, rejects):
                return Look(True, f"found counters to reject, e.g. {fresh[0].subject!r}: {fresh[0].reason}")
    known = f", beside {len(rejects)} rejected ones" if rejects else ""
    return Look(False, f"no key {stores.redis.prefix_text}* holds views{known}: nothing to flush")
