"""Rows of the ledger as values: flushes, their batches, and what is read back of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

import psycopg

from viewer_pipeline.layout import SINGLE_SHARD
from viewer_pipeline.target.add_or_park import FetchTotals

HOLD: Final = "hold"  # the mode of a flush whose views go to `viewer.held`, not to the totals
COUNT_HELD: Final = "count_held"  # of one that moves held views to the totals; Redis was lowered by them before


class Batch(NamedTuple):
    """The unit of settling: one script subtracts `deltas[i]` views from the counter of `vod_ids[i]`."""

    seq: int
    number: int  # 1 .. of
    of: int  # number of batches of the flush
    taken_at: datetime
    vod_ids: Sequence[str]
    deltas: Sequence[int]
    epoch: str = ""  # of the marker when the counters were read
    flush_id: str = ""
    holds: bool = False  # whether counters may hold views that were counted, once the marker is here (rule R16)
    shard: int = SINGLE_SHARD  # that all its counters belong to

    def skipped(self) -> Batch:
        """Return the batch without counters: it advances the marker and subtracts nothing."""
        return self._replace(vod_ids=[], deltas=[], holds=self.holds or bool(self.vod_ids))


class LastFlush(NamedTuple):
    """The newest flush of a stream; for a new one (0 in a new database) the number that its flushes follow."""

    seq: int
    batches: int
    flush_id: UUID | None = None
    timeline: str = ""  # of PostgreSQL, when it was read: another one later means that commits may be lost (rule R17)

    def end_of_shard(self, shard: int, epoch: str, *, holds: bool = False) -> Batch:
        """Return a batch without counters that advances the marker of a shard to the end of this flush."""
        id_ = str(self.flush_id or "")
        now = datetime.now(UTC)
        return Batch(self.seq, self.batches, self.batches, now, [], [], epoch, id_, holds=holds, shard=shard)


@dataclass(frozen=True)
class Flush:
    """A transaction to commit: `batches` under the number `seq`, provided that its stream has nothing above `base`.

    Also provided that the ledger's newest flush is `after`, as when `base` was fixed; None: it was empty. Otherwise
    another run has committed below `base`, or PostgreSQL was rolled back in between, perhaps with the flush that the
    counters were settled by. The same holds for another `timeline` than that of the ledger when `base` was fixed.
    """

    seq: int
    base: int
    flush_id: UUID
    run_id: str
    mode: str
    taken_at: datetime
    batches: Sequence[Batch] = ()
    after: UUID | None = None
    epoch: str = ""
    timeline: str = ""

    def with_shards(
        self,
        vod_ids: Sequence[str],
        deltas: Sequence[int],
        slices: Sequence[tuple[slice, int]],
        epochs: Mapping[int, str],
    ) -> Flush:
        """Return the flush with these counters of a cluster: a batch for each slice of one shard, and its epoch."""
        batches = [
            Batch(
                self.seq,
                number,
                len(slices),
                self.taken_at,
                vod_ids[rows],
                deltas[rows],
                epochs[shard],
                str(self.flush_id),
                shard=shard,
            )
            for number, (rows, shard) in enumerate(slices, 1)
        ]
        return replace(self, batches=batches)

    def with_counters(self, vod_ids: Sequence[str], deltas: Sequence[int], batch_size: int) -> Flush:
        """Return the flush with these counters, cut into batches."""
        slices = [slice(start, start + batch_size) for start in range(0, len(vod_ids), batch_size)]
        origin = self.epoch, str(self.flush_id)
        batches = [
            Batch(self.seq, number, len(slices), self.taken_at, vod_ids[rows], deltas[rows], *origin)
            for number, rows in enumerate(slices, 1)
        ]
        return replace(self, batches=batches)

    @property
    def counters(self) -> int:
        """Number of counters."""
        return sum(len(batch.vod_ids) for batch in self.batches)

    @property
    def views(self) -> int:
        """Sum of the deltas, in views."""
        return sum(sum(batch.deltas) for batch in self.batches)


# The part of a flush's transaction after the ledger: adds to the totals, and to the target table.
Upsert = Callable[[psycopg.Connection, Flush], FetchTotals]


class FlushRow(NamedTuple):
    """One row of `viewer.flush`, or what its batches say of it."""

    seq: int
    counters: int
    views: int
    batches: int
    mode: str

    @property
    def is_held(self) -> bool:
        """Whether its views are held, and not in the totals."""
        return self.mode == HOLD


class BatchDigest(NamedTuple):
    """The content of one batch, as a digest to compare."""

    seq: int
    number: int
    counters: int
    sha256: bytes


class StoredViewsSummary(NamedTuple):
    """Numbers of VODs and views that are persisted and parked, and of rejected inputs."""

    vods: int
    persisted: int
    parked_vods: int
    parked: int
    rejected: int


class HeldSummary(NamedTuple):
    """What is held (rule R16). `age_seconds`: of the oldest; None where nothing is held."""

    vods: int
    views: int
    age_seconds: float | None
    is_lower_bound: bool  # whether more is held than was read


class RecentFlush(NamedTuple):
    """One row of `viewer.flush`, for people."""

    seq: int
    mode: str
    taken_at: datetime
    committed_at: datetime
    counters: int
    views: int
    batches: int
    run_id: str
