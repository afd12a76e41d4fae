"""Step 3, bulk upsert: commit the frame flush by flush, each settled beside the next transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import pandas as pd
import psycopg

from viewer_pipeline.flush.aggregate import Aggregate, aggregate
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.garbage_collection import rare_collections
from viewer_pipeline.flush.incidents import record_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import flushes_of_run
from viewer_pipeline.flush.ledger_row_types import Flush, FlushRow
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.rejects import record_new_rejects
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.run_report import CommittedFlush, RunReport
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.logs import event
from viewer_pipeline.target.add_or_park import FetchTotals
from viewer_pipeline.target.parked_views import NO_VIEWS, ParkedViews, apply_ready_parked_until_timeout, prune_parked

log = logging.getLogger("viewer_pipeline.commit")

SUPERSEDED_TRIES = 3  # how often a run drains again because another one committed first


def bulk_upsert(stores: Stores, snapshot: Snapshot, aggregated: Aggregate) -> RunReport:
    """Commit the frame flush by flush, and settle each.

    If another run committed since `base` was fixed, the snapshot is discarded and drained again, SUPERSEDED_TRIES
    times; the counters still hold everything. The same holds if an earlier attempt of this step, with this snapshot,
    committed before it failed: its flushes are reported as recovered.
    """
    started = time.perf_counter()
    first, request, base, superseded = snapshot, snapshot.request, snapshot.base, 0
    step = _steps.setdefault(snapshot, _StepNotes())
    attempts, recovered = list[_Attempt](), list[FlushRow]()
    with rare_collections(), stores.ledger.connect() as connection:
        step.record_missed_incidents(connection, request.run_id)
        while superseded < SUPERSEDED_TRIES:
            # Outside the flush's transaction, which must not hold their locks.
            record_new_rejects(connection, aggregated.rejects)
            attempt = _commit_and_settle(stores, connection, snapshot, aggregated, step)
            attempts.append(attempt)
            if attempt.complete:
                break
            known, recovered = recovered, _recovered(connection, request, base, attempts)
            superseded += recovered == known
            log.debug(event("flush_superseded", base=snapshot.base, recovered=len(recovered), tries=superseded))
            step.notes += RunNotes(superseded=int(recovered == known))
            snapshot = drain(stores, request)
            step.notes += snapshot.notes
            aggregated = aggregate(snapshot.readings)
    part = snapshot.progress.part
    is_swept = part is not None and part.is_last
    unparked = _apply_and_prune_parked(stores.ledger, request.parked_retention_days) if is_swept else NO_VIEWS
    snapshot.clean_changed_set(stores, aggregated)
    remaining = _store_progress(stores.redis, snapshot) if attempts[-1].complete else 0
    _steps.pop(first, None)
    return RunReport(
        snapshot,
        [flush for attempt in attempts for flush in attempt.committed],
        recovered,
        aggregated.rejects,
        first.notes + step.notes,
        left_over=not attempts[-1].complete,
        remaining=remaining,
        aggregate_seconds=aggregated.seconds,
        upsert_seconds=sum(attempt.upsert_seconds for attempt in attempts),
        settle_seconds=sum(attempt.settle_seconds for attempt in attempts),
        upsert_and_settle_seconds=time.perf_counter() - started,
        unparked=unparked,
    )


def _store_progress(redis: RedisStore, snapshot: Snapshot) -> int:
    """Store how far a sweep has come; return what the next run should read immediately.

    Nothing if another run continues the sweep, or if the changed set did not shrink: runs must not go on for ever.
    """
    progress = snapshot.progress
    if part := progress.part:
        is_stored = redis.advance_sweep(part)  # else another run continues the sweep
        is_last = part.is_last
        log.debug(
            event(
                "sweep_part_read",
                counters=progress.read,
                share=1.0 if is_last else round(part.end.share, 3),
                last=is_last,
                stored=is_stored,
            )
        )
        return progress.remaining if is_stored else 0
    if not progress.remaining:
        return 0
    announced = redis.count_announced(snapshot.announced_before)
    return announced if announced < progress.read + progress.remaining else 0


class _StepNotes:
    """The notes of all attempts of this step, also of those that failed: Dagster repeats it in the same process."""

    def __init__(self) -> None:
        self.notes = RunNotes()
        self.unrecorded = RunNotes()  # of them, those whose incidents could not be recorded

    @contextmanager
    def of(self, settler: Settler) -> Iterator[Settler]:
        """Open a settler, and add its notes, also after an error."""
        try:
            with settler:
                yield settler
        finally:
            self.notes += settler.notes
            self.unrecorded += settler.unrecorded

    def record_missed_incidents(self, connection: psycopg.Connection, run_id: str) -> None:
        """Record the incidents that an earlier attempt could not record."""
        record_incidents(connection, self.unrecorded, run_id)
        self.unrecorded = RunNotes()


_steps: WeakKeyDictionary[Snapshot, _StepNotes] = WeakKeyDictionary()  # that have begun and are not complete


@dataclass(frozen=True)
class _Attempt:
    """One attempt to commit a frame. `complete`: no other run committed first."""

    committed: tuple[CommittedFlush, ...]
    complete: bool
    upsert_seconds: float
    settle_seconds: float


def _commit_and_settle(
    stores: Stores, connection: psycopg.Connection, snapshot: Snapshot, aggregated: Aggregate, step: _StepNotes
) -> _Attempt:
    """Commit every slice of the frame; stop as soon as another run was first."""
    base, after, complete, superseded_seconds = snapshot.base, snapshot.after, True, 0.0
    committed = list[tuple[Flush, pd.DataFrame, float]]()
    parts = snapshot.parts(connection, aggregated.frame)
    with step.of(snapshot.settler(stores)) as settler:
        for mode, rows in parts:
            flush = snapshot.plan_flush(base, after, rows, mode)
            fetch_totals, seconds = _commit(stores.ledger, connection, flush)
            if fetch_totals is None:
                complete, superseded_seconds = False, seconds
                break
            settler.add(flush, fetch_totals)
            committed.append((flush, rows, seconds))
            size = {"counters": len(rows), "batches": len(flush.batches)}
            log.debug(event("transaction_committed", seq=flush.seq, **size, transaction_seconds=round(seconds, 3)))
            base, after = flush.seq, flush.flush_id
    return _Attempt(
        tuple(
            CommittedFlush(flush, rows, seconds + settler.seconds.get(flush.seq, 0.0))
            for flush, rows, seconds in committed
        ),
        complete,
        sum(seconds for _, _, seconds in committed) + superseded_seconds,
        sum(settler.seconds.values()),
    )


def _commit(ledger: Ledger, connection: psycopg.Connection, flush: Flush) -> tuple[FetchTotals | None, float]:
    """Commit one flush; return how to fetch its totals, None if another run was first, and the seconds it took."""
    started = time.perf_counter()
    fetch_totals = ledger.commit(connection, flush)
    return fetch_totals, time.perf_counter() - started


def _recovered(
    connection: psycopg.Connection, request: FlushRequest, base: int, attempts: Iterable[_Attempt]
) -> list[FlushRow]:
    """Return the flushes of this run above `base` that none of these attempts committed."""
    committed = {committed.flush.seq for attempt in attempts for committed in attempt.committed}
    return [row for row in flushes_of_run(connection, request.run_id, base) if row.seq not in committed]


def _apply_and_prune_parked(ledger: Ledger, retention_days: int | None) -> ParkedViews:
    """Apply parked views whose rows exist by now, and prune those that waited too long. Return what was applied."""
    if ledger.target_names is None:
        return NO_VIEWS
    # Connect again: the connection of the flushes may be lost with the reply to the last COMMIT.
    with ledger.connect() as connection:
        target = ledger.target(connection)
        if target is None:
            return NO_VIEWS
        applied = apply_ready_parked_until_timeout(connection, target)
        if retention_days is not None:
            prune_parked(connection, target, retention_days)
        return applied
