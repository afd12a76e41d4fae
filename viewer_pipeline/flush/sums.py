"""Sums for metrics: over flushes as runs recorded them, over the ledger, over rejects. One statement a function."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.logs import event
from viewer_pipeline.stores.queries import named_queries

SQL = named_queries(__name__)

if TYPE_CHECKING:  # pandas comes with it, which the worker does not need
    from viewer_pipeline.flush.steps import Persisted

log = logging.getLogger("viewer_pipeline.sums")

Outcome = Literal["committed", "superseded", "failed"]

# Upper bounds of the buckets, in seconds; above the last there is one bucket more. What is recorded under other bounds
# stays in its place: who changes them empties viewer.flush_sums in a migration.
BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True)
class FlushSum:
    """Sums over flushes of one mode and outcome. Only committed ones have `seconds`, `buckets` and `drift`.

    `committed`: flushes of runs that came to their end; `seconds`: their transactions and settling; `buckets[i]`: how
    many took over BOUNDS[i - 1] and at most BOUNDS[i] seconds; `drift`: views that counters should have held.
    `superseded`: how often another run committed first. `failed`: runs of which a step failed for good.
    """

    mode: str
    outcome: Outcome
    count: int
    seconds: float
    buckets: tuple[int, ...]  # not cumulative; one more than BOUNDS
    drift: int

    @classmethod
    def of_flushes(cls, mode: str, seconds: Sequence[float], drift: int) -> FlushSum:
        """Sum up committed flushes by how long each took."""
        return cls(mode, "committed", len(seconds), sum(seconds), buckets_of(seconds), drift)

    @classmethod
    def of_events(cls, mode: str, outcome: Outcome, count: int) -> FlushSum:
        """Return what has a number and nothing else."""
        return cls(mode, outcome, count, 0.0, buckets_of(()), 0)


class FlushesSince(NamedTuple):
    """What the ledger holds above a flush, of one mode."""

    mode: str
    flushes: int
    counters: int
    views: int
    last_seq: int
    last_committed_at: datetime


class RejectedRows(NamedTuple):
    """How many rejects of one source and reason are recorded."""

    source: str
    reason: str
    rows: int


def buckets_of(seconds: Iterable[float]) -> tuple[int, ...]:
    """Count durations by BOUNDS."""
    buckets = [0] * (len(BOUNDS) + 1)
    for duration in seconds:
        buckets[bisect_left(BOUNDS, duration)] += 1
    return tuple(buckets)


def record_sums(connection: psycopg.Connection, sums: Sequence[FlushSum]) -> None:
    """Add these to the sums, all or none; at most one for each mode and outcome.

    Not idempotent: what is recorded twice counts twice.
    """
    some = [asdict(one) for one in sums if one.count or one.drift]
    if some:
        connection.execute(SQL["add_flush_sums"], {"sums": Jsonb(some)})


def record_run(ledger: Ledger, persisted: Persisted) -> None:
    """Add what a run committed, and how often another one was first, to the sums. Once, at the end of the run.

    Best effort: what goes wrong is logged. Nothing is written for a run that has nothing to tell.
    """
    mode, findings = persisted.snapshot.request.mode, persisted.findings
    seconds = [findings.flush_seconds.get(seq, 0.0) for seq in persisted.seqs]
    committed = FlushSum.of_flushes(mode, seconds, findings.drift)
    _record(ledger, [committed, FlushSum.of_events(mode, "superseded", findings.superseded)])


def record_failure(ledger: Ledger, mode: str) -> None:
    """Add a run that failed for good to the sums. Best effort: what goes wrong is logged."""
    _record(ledger, [FlushSum.of_events(mode, "failed", 1)])


def _record(ledger: Ledger, sums: list[FlushSum]) -> None:
    if any(one.count or one.drift for one in sums):
        try:
            with ledger.connect() as connection:
                record_sums(connection, sums)
        except ViewerPipelineError as error:
            log.warning(event("sums for metrics not recorded", mode=sums[0].mode, reason=error))


def read_sums(connection: psycopg.Connection) -> list[FlushSum]:
    """Read the sums over all runs ever; a mode and outcome that never was is missing. They only grow."""
    return [
        FlushSum(mode, outcome, count, seconds, tuple(buckets), int(drift))
        for mode, outcome, count, seconds, buckets, drift in connection.execute(SQL["flush_sums"])
    ]


def flushes_since(connection: psycopg.Connection, seq: int) -> list[FlushesSince]:
    """Sum up the ledger above flush `seq` by mode; empty where nothing was committed since. Costs what is new.

    To read on, pass the greatest `last_seq` of all answers so far, at first 0: flushes are committed in the order of
    their numbers, so none is missed or told twice. From 0 on, what retention deleted is told as well; who reads on
    starts at 0 again where `pruned_through` is beyond what it has read. After PostgreSQL was restored from a backup the
    ledger may end below `seq`; new flushes are numbered above it all the same.
    """
    return [
        FlushesSince(mode, flushes, int(counters), int(views), last_seq, last_committed_at)
        for mode, flushes, counters, views, last_seq, last_committed_at in connection.execute(
            SQL["flushes_since"], {"seq": seq}
        )
    ]


def pruned_through(connection: psycopg.Connection) -> int:
    """Return the highest flush that retention deleted; 0 where it never did."""
    row = connection.execute(SQL["pruned_through"]).fetchone()
    return int(row[0]) if row else 0


def rejected_by_reason(connection: psycopg.Connection) -> list[RejectedRows]:
    """Count the recorded rejects by source and reason. Rows, not inputs: of messages only some are kept."""
    return [RejectedRows(*row) for row in connection.execute(SQL["rejected_by_reason"])]
