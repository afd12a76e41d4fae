"""Received views that are not folded yet, in segments. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple, Self

VOID = -1  # as the previous cut: what was received before this one is in no order that other workers know


class Cut(NamedTuple):
    """A cut as it is published. In a cluster with the cut before it at the same node, and the id of the node."""

    number: int
    folded: int  # the last folded segment
    previous: int = 0  # number of a cut; 0: unknown; or VOID
    node: str = ""

    @classmethod
    def parse(cls, message: bytes) -> Self | None:
        """Return the cut that a message has; None if it has none."""
        words = message.split(b" ")
        number, folded, previous, node = (*words, b"0", b"")[:4] if len(words) in (2, 4) else (b"",) * 4
        if not (number.isdigit() and folded.isdigit() and previous.removeprefix(b"-").isdigit()):
            return None
        return cls(int(number), int(folded), int(previous), node.decode("ascii", "replace"))


@dataclass
class Segment:
    """The views between two cuts; `number` is that of the cut that ends it."""

    number: int
    views: Counter[str]
    unsequenced: Counter[str] = field(default_factory=Counter)  # other workers may have these under a lower number

    def all_views(self) -> Counter[str]:
        """Return the views to fold."""
        return self.views + self.unsequenced

    def view_count(self) -> int:
        """Return how many views that are."""
        return self.views.total() + self.unsequenced.total()


@dataclass
class SegmentBuffer:
    """The segments of one worker. It outlives the worker's connections.

    A segment is counted once by its number, so a view must have the same number in every worker. A connection misses no
    cut: views received before a cut have its number, views received after it have the next. Views of a connection that
    breaks before its first cut have no number: they are unsequenced.
    """

    last_cut: int = 0  # number of the last received cut, on whatever connection
    numbered: bool = False  # this connection received a cut: the open segment gets the number last_cut + 1
    complete_after: int | None = None  # it received all of every segment above this number; None: no cut yet
    predates_lease: bool = False  # the connection is older than the lease, and has received no cut since
    open_views: Counter[str] = field(default_factory=Counter)  # of the open segment
    unsequenced: Counter[str] = field(default_factory=Counter)  # of earlier connections that broke before a cut
    segments: list[Segment] = field(default_factory=list)

    def receive_cut(self, cut: Cut, node: str) -> int:  # noqa: ARG002 - of a cluster
        """End the open segment; drop what is folded. Return how many views were dropped. `node`: of this worker."""
        return self.cut_open_segment(cut.number, cut.folded)

    def note_published(self, cut: Cut) -> None:
        """Note a cut that this worker has published, and may not receive. Of a single Redis, all numbers are known."""

    def cut_open_segment(self, number: int, folded: int) -> int:
        """End the open segment; drop segments up to `folded`. Return how many views were dropped.

        Numbers only rise, unless Redis lost its last writes: then segments with older numbers mean nothing.
        """
        dropped = 0
        if number <= self.last_cut:
            dropped = self._closed_view_count()
            self.segments = []
            self.numbered = False
        if not self.numbered:
            self.complete_after = number
        self._add_to_segment(number, self.open_views, self.unsequenced)
        self.last_cut, self.numbered, self.open_views, self.unsequenced = number, True, Counter(), Counter()
        self.predates_lease = False
        return dropped + self.drop_folded(folded)

    def drop_folded(self, folded: int) -> int:
        """Drop segments up to this number, because they are folded; return how many views were in them."""
        before = self._closed_view_count()
        self.segments = [segment for segment in self.segments if segment.number > folded]
        return before - self._closed_view_count()

    def close_segment_of_lost_connection(self, *, is_holder: bool) -> int:
        """Close the open segment of a connection that was lost. Return how many views were dropped.

        Only the holder of the lease keeps views without a number. No other worker folds while it holds the lease, and
        it folds them under its next cut, which is above every number that another worker can have them under. A
        connection that is older than the lease is an exception: a cut of the previous holder, with what that one
        folded, may have been on its way.
        """
        keeps = is_holder and not self.predates_lease
        views, self.open_views = self.open_views, Counter()
        if self.numbered:
            self._add_to_segment(self.last_cut + 1, views)
        elif keeps:
            self.unsequenced += views
        dropped = 0 if self.numbered or keeps else views.total()
        self.numbered, self.predates_lease, self.complete_after = False, False, None
        return dropped

    def mark_if_predates_lease(self) -> None:
        """Remember that this connection is older than the lease just acquired, unless it has received a cut."""
        self.predates_lease = not self.numbered

    def drop_unsequenced_views(self) -> int:
        """Drop views without a number, because another worker may have folded them. Return how many."""
        dropped, self.unsequenced = self.unsequenced.total(), Counter()
        for segment in self.segments:
            dropped += segment.unsequenced.total()
            segment.unsequenced = Counter()
        return dropped

    def drop_all(self) -> int:
        """Drop everything; return how many views that were. The open segment is incomplete from now on."""
        dropped, self.segments, self.open_views, self.unsequenced = self.view_count(), [], Counter(), Counter()
        self.complete_after = self.last_cut + 1 if self.numbered else None
        return dropped

    def drop_all_and_numbers(self) -> int:
        """Drop everything and the numbers, which belong to another key space; return how many views that were."""
        dropped = self.drop_all()
        self.last_cut, self.numbered, self.complete_after, self.predates_lease = 0, False, None, False
        return dropped

    def nothing_to_fold_through(self) -> int:
        """Return the number up to which nothing is left to fold; 0 where that is unknown."""
        return 0 if self.segments or not self.numbered else self.last_cut

    def view_count(self) -> int:
        """Return how many views are in memory."""
        return self._closed_view_count() + self.open_views.total() + self.unsequenced.total()

    def entry_count(self) -> int:
        """Return how many entries are in memory."""
        closed = sum(len(segment.views) + len(segment.unsequenced) for segment in self.segments)
        return len(self.open_views) + len(self.unsequenced) + closed

    def _add_to_segment(self, number: int, views: Counter[str], unsequenced: Counter[str] | None = None) -> None:
        if not views and not unsequenced:
            return
        if not self.segments or self.segments[-1].number != number:
            self.segments.append(Segment(number, Counter()))
        self.segments[-1].views += views
        self.segments[-1].unsequenced += unsequenced or Counter()

    def _closed_view_count(self) -> int:
        return sum(segment.view_count() for segment in self.segments)
