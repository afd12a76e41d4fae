"""Checks that read Redis: the marker against the ledger, and counters that can never be counted. No repairs."""

from __future__ import annotations

from itertools import chain

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import find_refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.unsettled import Unsettled, UnsettledReader
from viewer_pipeline.reconcile.difference_csv import Difference, DifferenceReport
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.text_formatting import pluralize
from viewer_pipeline.time_formatting import format_age, tolerate_clock_skew

PAGE_SIZE = 10_000  # counters in memory
UNSETTLED_SECONDS = 60.0  # a flush is settled within a second; after a crash, by the next run


def compare_marker(stores: Stores, report: DifferenceReport) -> None:
    """Report the marker of a stream if it is missing, ahead of the ledger, or left behind.

    The marker is read before the ledger, so that flushes which commit meanwhile are no difference.
    """
    marker = stores.redis.marker()
    with stores.ledger.connect() as connection:
        last = stores.ledger.last_flush(connection)
        refusal = find_refusal(stores.redis, stores.ledger, connection)
        unsettled = UnsettledReader().read(stores.redis, connection, marker, last)
        marker = marker and unsettled.marker
        if unsettled.divergence is not None:
            refusal = refusal or unsettled.divergence.refusal(stores.ledger.place, stores.redis.layout)
        if message := str(refusal or "") or _marker_error(unsettled, marker, last):
            subject = stores.ledger.stream.subject
            report.add(Difference("marker", subject, last.seq, marker.seq if marker else None, message))


def _marker_error(unsettled: Unsettled, marker: Marker | None, last: LastFlush) -> str | None:
    if marker is None:
        return "Redis has no marker: it was emptied or replaced" if last.seq else None
    if marker.seq > last.seq:
        return "the marker is ahead of the ledger: PostgreSQL was rolled back"
    flushes, age, shards = unsettled.flushes, unsettled.age_seconds, unsettled.shards
    if age is None or 0 <= tolerate_clock_skew(age) < UNSETTLED_SECONDS:
        return None
    where = "" if shards is None else f" in {pluralize(shards, 'shard')}"
    return f"{pluralize(flushes, 'flush')} committed and not settled{where}, the oldest {format_age(age)}"


def report_invalid_counters(redis: RedisStore, report: DifferenceReport) -> None:
    """Report every counter whose value, type or id can never be counted."""
    for ids in chunks(chain.from_iterable(redis.scan_counters()), PAGE_SIZE):
        for reject in aggregate(redis.read_page(ids)).rejects:
            message = f"{reject.reason}: {reject.value!r}" if reject.value else reject.reason
            report.add(Difference("counter", reject.subject, None, None, message))
