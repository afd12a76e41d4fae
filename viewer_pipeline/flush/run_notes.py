"""What a run observed beside its work: a server that was reset, drift, batches that another run settled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from viewer_pipeline.text_formatting import pluralize

MAX_NAMED_COUNTERS = 5


@dataclass(frozen=True)
class RunNotes:
    """Returned by each step; the notes of a run are their sum."""

    settled_before: int = 0  # batches that an earlier run had committed and not settled
    settled_already: int = 0  # batches settled by another run, or by a script whose reply was lost: drift unknown
    drift: int = 0  # views missing from counters
    drifted: tuple[str, ...] = ()  # ids of those counters
    redis_emptied: bool = False  # Redis had no marker although the ledger has flushes
    postgres_rolled_back: bool = False  # the marker was ahead of the ledger
    skipped_views: int = 0  # views of flushes that were read from another Redis than this one
    excluded_shards: int = 0  # of a cluster: left to the next run, because they did not answer
    exclusion: str = ""  # why, of one of them
    unsettled_shards: int = 0  # of a cluster: committed, and to be settled by the next run, because they did not answer
    superseded: int = 0  # how often another run committed first
    sweep_restarted: str = ""  # why a sweep began again although it had a position
    sweep_incomplete: str = ""  # why a sweep may have missed counters, and so fulfils no request
    unpublished: int = 0  # flushes whose totals were not published, or not all
    publish_error: str = ""

    def __add__(self, other: RunNotes) -> RunNotes:
        """Return the notes of two steps: numbers and ids are added, a flag or text of either is kept."""
        notes: dict[str, Any] = {
            name: ours or theirs if isinstance(ours, (bool, str)) else ours + theirs
            for (name, ours), theirs in zip(vars(self).items(), vars(other).values(), strict=True)
        }
        return RunNotes(**notes)

    def sentences(self) -> list[str]:
        """Return one sentence per note, for operators."""
        names = ", ".join(self.drifted[:MAX_NAMED_COUNTERS])
        sentences = {
            "Redis had no marker although the ledger has flushes: Redis was emptied or replaced": self.redis_emptied,
            "the marker was ahead of the ledger: PostgreSQL was rolled back, e.g. restored from a backup": (
                self.postgres_rolled_back
            ),
            f"{pluralize(self.skipped_views, 'view')} of the ledger not subtracted: read from a Redis that was emptied"
            " or replaced since": self.skipped_views,
            f"settled {pluralize(self.settled_before, 'batch')} that an earlier run had committed": self.settled_before,
            f"{pluralize(self.settled_already, 'batch')} settled already, by another run or by a script whose reply was"
            " lost": self.settled_already,
            f"counters held {pluralize(self.drift, 'view')} less than they should: another program lowered"
            f" {names}": self.drift,
            f"the sweep began again at the first key: {self.sweep_restarted}": self.sweep_restarted,
            "the sweep may have missed counters, and so another one must follow:"
            f" {self.sweep_incomplete}": self.sweep_incomplete,
            f"{pluralize(self.excluded_shards, 'shard')} did not answer and was left to the next run:"
            f" {self.exclusion}": self.excluded_shards,
            f"{pluralize(self.unsettled_shards, 'shard')} did not answer after the commit: the next run subtracts what"
            " is in the ledger": self.unsettled_shards,
            f"another run committed first, {pluralize(self.superseded, 'time')}; drained again": self.superseded,
            f"totals of {pluralize(self.unpublished, 'flush')} were not published:"
            f" {self.publish_error}": self.unpublished,
        }
        return [sentence for sentence, applies in sentences.items() if applies]
