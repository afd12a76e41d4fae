"""Settling, a part of step 3: subtract committed batches from Redis, in order, beside the next transaction.

PostgreSQL works on flush k + 1 while Redis settles flush k: half a second of every 100 000 counters. Neither waits for
the other, and at most two flushes are committed and unsettled at any time. Why that keeps the protocol:
docs/adr/0001-settle-beside-the-next-transaction.md.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import psycopg

from viewer_pipeline.errors import MarkerMoved, PipelineRefused, ViewerPipelineError
from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import read_batches_after
from viewer_pipeline.flush.ledger_row_types import Batch, Flush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import detect_missing_flushes, require_undiverged_history
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.totals_channel import publish_totals
from viewer_pipeline.logs import event
from viewer_pipeline.stores.redis import as_text
from viewer_pipeline.target.add_or_park import FetchTotals

log = logging.getLogger("viewer_pipeline.settle")

MARKER_TRIES = 20  # how often settling starts again because another run settles, too
PAGE_SIZE = 500  # batches of the ledger in memory


class SettledThrough(NamedTuple):
    """The result of settling from the ledger: where the marker stands, and how many batches were unsettled."""

    marker: Marker
    batches: int
    notes: RunNotes


def settle_through(
    redis: RedisStore, ledger: Ledger, connection: psycopg.Connection, marker: Marker, through: int
) -> SettledThrough:
    """Subtract what the ledger holds beyond the marker, through flush `through`, once standbys have it (rule R18).

    Raises MarkerMoved if the marker vanished, or if other runs keep moving it; NotReplicated if standbys do not have it
    in time.
    """
    refusals, batches, notes = 0, 0, RunNotes()
    if marker.seq < through:
        marker = detect_missing_flushes(connection, marker)
    while True:
        due, timeline = read_batches_after(connection, marker.seq, marker.batch, through, PAGE_SIZE)
        if not due:
            return SettledThrough(marker, batches, notes)
        require_timeline(marker, timeline)
        ledger.wait_for_standbys(connection, due[-1].seq, due[-1].flush_id)
        moved, page_notes = settle_batches(redis, marker, due)
        notes += page_notes
        if moved is None:
            refusals += 1
            moved = reread_own_marker(redis, connection, marker)
            if moved is None or refusals > MARKER_TRIES:
                raise MarkerMoved(f"at {moved} while settling flushes up to {through}")
        else:
            batches += len(due)
        marker = moved


def skip_other_epochs(batch: Batch, marker: Marker) -> Batch:
    """Return a batch as it is settled: without counters if it was read under another epoch than that of the marker."""
    return batch if batch.epoch == marker.epoch else batch.skipped()


def settle_batches(redis: RedisStore, marker: Marker, batches: Sequence[Batch]) -> tuple[Marker | None, RunNotes]:
    """Settle batches that follow `marker`; return where it stands then, None if one was refused.

    Batches of another epoch are skipped: they were read from a Redis that was emptied since, or Redis was settled by
    another ledger, so its counters hold other views.
    """
    ours = [skip_other_epochs(batch, marker) for batch in batches]
    settled = redis.settle(marker, ours)
    seq, number = settled.marker.seq if settled.marker else None, len(batches)
    log.debug(
        event(
            "batches_settled",
            seq=seq,
            batches=number,
            refused=settled.refused,
            already=settled.already,
            drift=settled.drift,
        )
    )
    notes = settling_notes(settled.already, settled.drift, settled.drifted)
    if settled.refused:
        return None, notes
    skipped = sum(sum(batch.deltas) for batch in batches if batch.epoch != marker.epoch)
    return settled.marker, notes + RunNotes(skipped_views=skipped)


def settling_notes(already: int, drift: int, drifted: Sequence[bytes]) -> RunNotes:
    """Return what settling has found: batches that were settled before, views that counters lacked, and their ids."""
    return RunNotes(settled_already=already, drift=drift, drifted=tuple(map(as_text, drifted)))


def reread_own_marker(redis: RedisStore, connection: psycopg.Connection, before: Marker) -> Marker | None:
    """Return the marker as it is now; None if it is gone.

    Raises PipelineRefused if it was given to another ledger meanwhile, or a copy of this ledger has settled there.
    """
    marker = redis.marker()
    if marker is not None:
        require_same_ledger(before, marker)
        require_undiverged_history(connection, marker, "this database")
        require_same_timeline(before, marker)
    return marker


def require_same_ledger(before: Marker, marker: Marker) -> None:
    """Raise PipelineRefused if a marker was given to another ledger since it was read."""
    if marker.ledger != before.ledger:
        raise PipelineRefused(f"Redis was given from ledger {before.ledger} to ledger {marker.ledger} during this run")


def require_same_timeline(before: Marker, marker: Marker) -> None:
    """Raise MarkerMoved if a run has given another timeline to a marker since it was read (rule R17)."""
    if marker.timeline != before.timeline:
        raise MarkerMoved(f"PostgreSQL may have lost flushes: {marker.timeline} replaced timeline {before.timeline}")


def require_timeline(marker: Marker, timeline: str) -> None:
    """Raise MarkerMoved if batches that follow a marker were read in another timeline than its own (rule R17)."""
    if timeline != marker.timeline:
        raise MarkerMoved(f"PostgreSQL may have lost flushes: its timeline is {timeline}, not {marker.timeline}")


class Settler:
    """Settles the flushes of a run on a thread of its own, and publishes their totals.

    Leaving the `with` block waits for the last flush and records the incidents, also after an error or a cancellation.
    """

    def __init__(self, redis: RedisStore, ledger: Ledger, marker: Marker, run_id: str) -> None:
        self.marker = marker  # after the flush that was settled last
        self.notes = RunNotes()
        self.unrecorded = RunNotes()  # the same, if their incidents could not be recorded
        self.seconds = dict[int, float]()  # per flush
        self._redis, self._ledger, self._run_id = redis, ledger, run_id
        self._thread = ThreadPoolExecutor(1, "settler")
        self._unsettled: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = True
        try:
            if kind is None:
                self.wait()
                failed = False
        finally:
            with self._thread:  # which no cancellation interrupts
                self._thread.submit(self._record_incidents, failed=failed).result()

    def add(self, flush: Flush, fetch_totals: FetchTotals) -> None:
        """Start to settle a committed flush, then to publish its totals, once the flush before it is settled.

        Raises what settling that one raised.
        """
        self.wait()
        self._unsettled = self._thread.submit(self._settle_and_publish, flush, fetch_totals)

    def wait(self) -> None:
        """Wait until nothing is unsettled or unpublished. Raises what settling raised."""
        if self._unsettled is not None:
            self._unsettled.result()
            self._unsettled = None

    def _settle_and_publish(self, flush: Flush, fetch_totals: FetchTotals) -> None:
        started = time.perf_counter()
        self._settle(flush)
        self.seconds[flush.seq] = time.perf_counter() - started
        # A Redis that does not reply delays settling once, not at every flush.
        already_failed = bool(self.notes.unpublished)
        self.notes += RunNotes(unpublished=1) if already_failed else publish_totals(self._redis, flush, fetch_totals)

    def _settle(self, flush: Flush) -> None:
        self._wait_for_standbys(flush)
        moved, notes = settle_batches(self._redis, self.marker, flush.batches)
        self.notes += notes
        if moved is None:
            with self._ledger.connect() as connection:
                current = reread_own_marker(self._redis, connection, self.marker)
                if current is None:
                    raise MarkerMoved(f"it vanished before flush {flush.seq} was settled")
                moved, _, notes = settle_through(self._redis, self._ledger, connection, current, flush.seq)
            self.notes += notes
        self.marker = moved

    def _wait_for_standbys(self, flush: Flush) -> None:
        """Wait until standbys have the flush, if that is required (rule R18)."""
        if self._ledger.standby_wait.required:
            with self._ledger.connect() as connection:  # that of the run is busy with the next transaction
                self._ledger.wait_for_standbys(connection, flush.seq, flush.flush_id)

    def _record_incidents(self, *, failed: bool) -> None:
        """Record what settling noted, over another connection: that of the run may be lost. Hides no earlier error."""
        if not (self.notes.drift or self.notes.skipped_views):
            return
        try:
            with self._ledger.connect() as connection:
                record_incidents(connection, self.notes, self._run_id)
        except ViewerPipelineError as error:
            self.unrecorded = self.notes
            log.warning(event("incidents_not_recorded", reason=error, notes="; ".join(self.notes.sentences())))
            if not failed:
                raise
