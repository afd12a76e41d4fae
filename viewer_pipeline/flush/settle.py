"""Settling of committed flushes, in order, beside the next transaction.

PostgreSQL works on flush k + 1 while Redis is lowered by flush k: half a second of every 100 000 counters. The
transaction never waits for Redis, nor Redis for it, and at most two flushes are committed and unsettled at any time.
Why that keeps the protocol: docs/adr/0001-settle-beside-the-next-transaction.md.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import psycopg

from viewer_pipeline.errors import MarkerMoved, PipelineRefused
from viewer_pipeline.flush.findings import Findings
from viewer_pipeline.flush.ledger import Batch, Flush, Ledger, Totals, batches_beyond
from viewer_pipeline.flush.ownership import check_history, noting_lost
from viewer_pipeline.flush.redis_store import Marker, RedisStore
from viewer_pipeline.flush.totals_channel import publish_totals
from viewer_pipeline.stores.redis import as_text

MARKER_TRIES = 20  # how often settling starts again because another run is at it
SETTLE_PAGE = 500  # batches of the ledger held in memory at once


def settle_through(
    redis: RedisStore, connection: psycopg.Connection, marker: Marker, through: int, findings: Findings
) -> tuple[Marker, int]:
    """Subtract what the ledger holds beyond the marker, up to flush `through`.

    Batches of another epoch are passed over: they were read from a Redis that was emptied since, or the ledger is not
    the one that this Redis was settled by, so its counters hold other views.

    Returns where the marker stands then, and how many batches were due. Raises MarkerMoved where it vanished, or where
    other runs keep moving it.
    """
    refusals = batches = 0
    if marker.seq < through:
        marker = noting_lost(connection, marker)
    while due := batches_beyond(connection, marker.seq, marker.batch, through, SETTLE_PAGE):
        ours = [batch if batch.epoch == marker.epoch else batch.passed_over() for batch in due]
        moved = settle_batches(redis, marker, ours, findings)
        if moved is None:
            refusals += 1
            moved = moved_marker(redis, connection, marker)
            if moved is None or refusals > MARKER_TRIES:
                raise MarkerMoved(f"at {moved} while settling flushes up to {through}")
        else:
            batches += len(due)
            findings.passed_over += sum(sum(batch.deltas) for batch in due if batch.epoch != marker.epoch)
        marker = moved
    return marker, batches


def moved_marker(redis: RedisStore, connection: psycopg.Connection, known: Marker) -> Marker | None:
    """Read where the marker is by now.

    Raises PipelineRefused where it was given to another ledger meanwhile, or a copy of this one has settled there.
    """
    marker = redis.marker()
    if marker is not None and marker.ledger != known.ledger:
        raise PipelineRefused(f"Redis was given from ledger {known.ledger} to ledger {marker.ledger} during this run")
    if marker is not None:
        check_history(connection, marker, "this database")
    return marker


def settle_batches(redis: RedisStore, marker: Marker, batches: list[Batch], findings: Findings) -> Marker | None:
    """Settle batches that follow `marker`; return where it stands then, None when one was refused."""
    settled = redis.settle(marker, batches)
    findings.settled_already += settled.already
    findings.drift += settled.drift
    findings.drifted += map(as_text, settled.drifted)
    return None if settled.refused else settled.marker


class Settler:
    """Settles flushes on one thread of its own. Leaving the `with` block waits for the last of them."""

    def __init__(self, redis: RedisStore, ledger: Ledger, marker: Marker, findings: Findings) -> None:
        self.marker = marker  # where it stands after what was settled last
        self.seconds = 0.0
        self.findings = findings
        self._redis, self._ledger = redis, ledger
        self._thread = ThreadPoolExecutor(1, "settler")
        self._unsettled: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown()

    def add(self, flush: Flush, totals: Totals) -> None:
        """Begin to settle a committed flush, and then to publish its totals, once the one before it is through.

        Raises what settling that one raised.
        """
        self.wait()
        self._unsettled = self._thread.submit(self._settle_and_publish, flush, totals)

    def wait(self) -> None:
        """Wait until nothing is unsettled or unpublished. Raises what settling raised."""
        if self._unsettled is not None:
            self._unsettled.result()
            self._unsettled = None

    def _settle_and_publish(self, flush: Flush, totals: Totals) -> None:
        self._settle(flush)
        publish_totals(self._redis, flush, totals, self.findings)

    def _settle(self, flush: Flush) -> None:
        started = time.perf_counter()
        moved = settle_batches(self._redis, self.marker, flush.batches, self.findings)
        if moved is None:
            with self._ledger.connect() as connection:
                current = moved_marker(self._redis, connection, self.marker)
                if current is None:
                    raise MarkerMoved(f"it vanished before flush {flush.seq} was settled")
                moved, _ = settle_through(self._redis, connection, current, flush.seq, self.findings)
        self.marker = moved
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.findings.flush_seconds[flush.seq] = self.findings.flush_seconds.get(flush.seq, 0.0) + seconds
