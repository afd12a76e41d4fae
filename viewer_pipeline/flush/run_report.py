"""What one run committed and observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from viewer_pipeline.flush.ledger_row_types import Flush, FlushRow
from viewer_pipeline.flush.rejects import Reject
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.snapshot import Snapshot
from viewer_pipeline.target.parked_views import NO_VIEWS, ParkedViews
from viewer_pipeline.text_formatting import pluralize


@dataclass(frozen=True)
class CommittedFlush:
    """A committed and settled flush, with the rows of the frame that it took."""

    flush: Flush
    frame: pd.DataFrame
    seconds: float  # transaction and settling

    @cached_property  # a run's report, log lines and metadata sum the deltas of all flushes again and again
    def row(self) -> FlushRow:
        """Its row of the ledger, as it was intended."""
        return FlushRow(self.flush.seq, self.flush.counters, self.flush.views, len(self.flush.batches), self.flush.mode)


@dataclass(frozen=True)
class RunReport:
    """The result of a run.

    `left_over`: other runs kept committing first; the next run takes the rest. `remaining`: what the next run should
    read immediately: announced VODs, or for a sweep about so many keys.
    """

    snapshot: Snapshot
    committed: Sequence[CommittedFlush]  # by this attempt of the step
    recovered: Sequence[FlushRow]  # committed by an earlier attempt of the same step, which then failed
    rejects: Sequence[Reject]
    notes: RunNotes
    left_over: bool
    remaining: int
    aggregate_seconds: float
    upsert_seconds: float
    settle_seconds: float
    upsert_and_settle_seconds: float  # which overlap
    unparked: ParkedViews = NO_VIEWS  # parked views that were counted

    @property
    def seconds(self) -> float:
        """Seconds of reading, adding up, committing and settling, without the time of Dagster between the steps."""
        return self.snapshot.seconds + self.aggregate_seconds + self.upsert_and_settle_seconds

    @property
    def remaining_text(self) -> str:
        """What remains, for operators."""
        part = self.snapshot.progress.part
        if part is None:
            return f"{pluralize(self.remaining, 'announced VOD')} left"
        return f"about {pluralize(self.remaining, 'key')} left, after {part.end.share:.1%} of all"

    @property
    def flushes(self) -> list[FlushRow]:
        """All flushes, in order."""
        return sorted([*self.recovered, *(committed.row for committed in self.committed)])

    @property
    def counters(self) -> int:
        """Number of persisted counters."""
        return sum(flush.counters for flush in self.flushes if not flush.is_held)

    @property
    def views(self) -> int:
        """Number of persisted views."""
        return sum(flush.views for flush in self.flushes if not flush.is_held)

    @property
    def held_views(self) -> int:
        """Number of views that went to `viewer.held` (rule R16)."""
        return sum(flush.views for flush in self.flushes if flush.is_held)

    @property
    def batches(self) -> int:
        """Number of committed batches."""
        return sum(flush.batches for flush in self.flushes)

    @property
    def seqs(self) -> list[int]:
        """Numbers of the flushes, in order."""
        return [flush.seq for flush in self.flushes]
