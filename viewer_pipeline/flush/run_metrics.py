"""Totals for metrics: over runs as they recorded them, and over the ledger. One statement per function."""

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
from viewer_pipeline.stores.named_queries import fetch_one, named_queries

SQL = named_queries(__name__)

if TYPE_CHECKING:  # imports pandas, which the worker does not need
    from viewer_pipeline.flush.run_report import RunReport

log = logging.getLogger("viewer_pipeline.run_metrics")

Outcome = Literal["committed", "superseded", "failed"]

# Upper bounds of the buckets, in seconds; one more bucket counts what is above the last. Rows recorded under other
# bounds are not converted: a change of the bounds needs a migration that empties viewer.run_metrics.
BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True)
class RunMetric:
    """Totals over runs of one mode and outcome. Only `committed` has `seconds`, `buckets` and `drift`.

    `committed`: flushes of completed runs; `seconds`: their transactions and settling; `buckets[i]`: the number of
    flushes that took more than BOUNDS[i - 1] and at most BOUNDS[i] seconds; `drift`: views missing from counters.
    `superseded`: the number of times another run committed first. `failed`: runs in which a step failed for good.
    """

    mode: str
    outcome: Outcome
    count: int
    seconds: float
    buckets: tuple[int, ...]  # not cumulative; one more than BOUNDS
    drift: int

    @classmethod
    def of_flushes(cls, mode: str, seconds: Sequence[float], drift: int) -> RunMetric:
        """Return the totals of committed flushes, given the duration of each."""
        return cls(mode, "committed", len(seconds), sum(seconds), buckets_of(seconds), drift)

    @classmethod
    def of_events(cls, mode: str, outcome: Outcome, count: int) -> RunMetric:
        """Return a plain count of an outcome."""
        return cls(mode, outcome, count, 0.0, buckets_of(()), 0)


class FlushesSince(NamedTuple):
    """The ledger since a position, totals of one mode."""

    mode: str
    flushes: int
    counters: int
    views: int
    last_committed_at: datetime


def buckets_of(seconds: Iterable[float]) -> tuple[int, ...]:
    """Count durations by BOUNDS."""
    buckets = [0] * (len(BOUNDS) + 1)
    for duration in seconds:
        buckets[bisect_left(BOUNDS, duration)] += 1
    return tuple(buckets)


def add_run_metrics(connection: psycopg.Connection, metrics: Sequence[RunMetric]) -> None:
    """Add to the recorded totals, all or none; at most one value per mode and outcome. Not idempotent."""
    rows = [asdict(metric) for metric in metrics if metric.count or metric.drift]
    if rows:
        connection.execute(SQL["add_run_metrics"], {"metrics": Jsonb(rows)})


def record_run(ledger: Ledger, report: RunReport) -> None:
    """Count what a run committed, and how often another run was first. Once, at the end of the run.

    Best effort: an error is logged. Nothing is written for an idle run. The duration of a recovered flush is unknown.
    """
    mode, notes = report.snapshot.request.mode, report.notes
    seconds = [committed.seconds for committed in report.committed] + [0.0] * len(report.recovered)
    committed = RunMetric.of_flushes(mode, seconds, notes.drift)
    _record(ledger, [committed, RunMetric.of_events(mode, "superseded", notes.superseded)])


def record_failure(ledger: Ledger, mode: str) -> None:
    """Count a run that failed for good. Best effort: an error is logged."""
    _record(ledger, [RunMetric.of_events(mode, "failed", 1)])


def _record(ledger: Ledger, metrics: list[RunMetric]) -> None:
    if any(metric.count or metric.drift for metric in metrics):
        try:
            with ledger.connect() as connection:
                add_run_metrics(connection, metrics)
        except ViewerPipelineError as error:
            log.warning(event("run_metrics_not_recorded", mode=metrics[0].mode, reason=error))


def read_run_metrics(connection: psycopg.Connection) -> list[RunMetric]:
    """Return the totals over all runs ever, by mode and outcome. They only grow."""
    return [
        RunMetric(mode, outcome, count, seconds, tuple(buckets), drift)
        for mode, outcome, count, seconds, buckets, drift in connection.execute(SQL["run_metrics"])
    ]


def read_position(connection: psycopg.Connection, since: str) -> tuple[str, bool]:
    """Return the flushes that are committed now, and whether those of the position `since` still are what was read.

    A position has one range of numbers for each stream, as PostgreSQL writes it; `{}` is the one before all flushes.
    Within a stream, flushes commit in the order of their numbers. False after a restore of PostgreSQL from a backup,
    and if retention has deleted flushes that came after that position.
    """
    position, holds = fetch_one(connection, SQL["position"], since=since)
    return position, holds


def flushes_since(connection: psycopg.Connection, since: str, through: str) -> list[FlushesSince]:
    """Return the totals of the flushes between two positions by mode; empty if nothing was committed in between.

    Since `{}`, they include what retention has deleted.
    """
    return [
        FlushesSince(*row) for row in connection.execute(SQL["flushes_since"], {"since": since, "through": through})
    ]
