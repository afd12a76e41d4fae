"""Whether a sweep is needed, and the reason. Checked before a run is launched, because a run costs seconds of CPU."""

from __future__ import annotations

from dataclasses import dataclass

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.counter_reader import SCAN_COUNT
from viewer_pipeline.flush.rejects import Reject, find_unrecorded_rejects
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.target.parked_views import next_ready_or_advance_cursor
from viewer_pipeline.text_formatting import pluralize

MAX_SCANS = 2000  # a million keys, about a second


@dataclass(frozen=True)
class SweepNeed:
    """Whether a sweep would persist or record something, as far as a bounded scan shows, and the reason."""

    is_needed: bool
    reason: str


def evaluate_sweep_need(stores: Stores, max_scans: int = MAX_SCANS) -> SweepNeed:
    """Scan for counters that a sweep would persist, parked views that it would count, and rejects not yet recorded.

    Writes nothing but the cursor of the scan of parked views.
    """
    rejects: list[Reject] = []
    for scans, ids in enumerate(stores.redis.scan_counters(), 1):
        if ids:
            aggregated = aggregate(stores.redis.read_page(ids))
            if len(aggregated.frame):
                return SweepNeed(True, f"found counters to flush, e.g. {aggregated.frame['vod_id'].iloc[0]!r}")
            rejects += aggregated.rejects
        if scans >= max_scans:
            return SweepNeed(True, f"no counter among the first {scans * SCAN_COUNT} keys; a sweep scans the rest")
    with stores.ledger.connect() as connection:
        target = stores.ledger.target(connection)
        if target and (parked := next_ready_or_advance_cursor(connection, target)):
            return SweepNeed(
                True, f"found {pluralize(len(parked), 'parked VOD')} with a row by now, e.g. {parked[0]!r}"
            )
        if rejects and (fresh := find_unrecorded_rejects(connection, rejects)):
            return SweepNeed(True, f"found counters to reject, e.g. {fresh[0].subject!r}: {fresh[0].reason}")
    known = f", beside {pluralize(len(rejects), 'rejected one')}" if rejects else ""
    return SweepNeed(False, f"no key {stores.redis.prefix_text}* holds views{known}: nothing to flush")
