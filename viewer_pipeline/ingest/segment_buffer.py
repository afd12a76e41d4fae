"""What a subscriber heard and nobody has folded yet. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Segment:
    """The views between two cuts; `number` is that of the cut that ends it."""

    number: int
    views: Counter[str]
    unsequenced: Counter[str] = field(default_factory=Counter)  # others may have these under a lower number

    def all(self) -> Counter[str]:
        """Return what is to be folded."""
        return self.views + self.unsequenced


@dataclass
class SegmentBuffer:
    """The segments of one subscriber. Outlives its connections.

    A segment is counted once by its number, so everything hangs on giving views the number under which another
    subscriber has them too. On one connection no cut is missed: what was heard before a cut has its number, and what
    was heard after it has the next. A connection that breaks before its first cut leaves views without a number.
    """

    last: int = 0  # the last cut that was heard, on whatever connection
    numbered: bool = False  # a cut was heard on this connection: what is open gets the number last + 1
    complete_after: int | None = None  # segments above this number were heard whole, on this connection; None: none yet
    predates_lease: bool = False  # the connection is older than the lease, and no cut was heard on it since
    views: Counter[str] = field(default_factory=Counter)  # of the open segment
    unsequenced: Counter[str] = field(default_factory=Counter)  # heard on earlier connections that broke before a cut
    segments: list[Segment] = field(default_factory=list)

    def cut(self, number: int, folded: int) -> int:
        """End the open segment; drop what another has folded by then. Return how many views were dropped."""
        dropped = 0
        if number <= self.last:  # numbers only rise, unless Redis lost what it knew: then older ones mean nothing
            dropped = self._sum()
            self.segments = []
            self.numbered = False
        if not self.numbered:
            self.complete_after = number
        self._add(number, self.views, self.unsequenced)
        self.last, self.numbered, self.views, self.unsequenced = number, True, Counter(), Counter()
        self.predates_lease = False
        return dropped + self.prune(folded)

    def prune(self, folded: int) -> int:
        """Drop segments up to this number; return how many views were in them."""
        before = self._sum()
        self.segments = [segment for segment in self.segments if segment.number > folded]
        return before - self._sum()

    def interrupted(self, *, holder: bool) -> int:
        """Close what was heard before a connection was lost. Return how many views were dropped.

        Views without a number are kept by the holder of the lease only. Nobody else folds while it has the lease, and
        it will fold them under the next cut that it makes, which is above the one that any other has them under.
        That is not so on a connection that is older than the lease: a cut of the holder before, with what that one has
        folded, may have been on its way.
        """
        keeps = holder and not self.predates_lease
        views, self.views = self.views, Counter()
        if self.numbered:
            self._add(self.last + 1, views)
        elif keeps:
            self.unsequenced += views
        dropped = 0 if self.numbered or keeps else views.total()
        self.numbered, self.predates_lease, self.complete_after = False, False, None
        return dropped

    def on_acquired(self) -> None:
        """Remember that the lease was taken on this connection."""
        self.predates_lease = not self.numbered

    def drop_unsequenced(self) -> int:
        """Drop views without a number, because another may have folded them. Return how many."""
        dropped, self.unsequenced = self.unsequenced.total(), Counter()
        for segment in self.segments:
            dropped += segment.unsequenced.total()
            segment.unsequenced = Counter()
        return dropped

    def clear(self) -> int:
        """Drop everything; return how many views that were. What is open is not whole from now on."""
        dropped, self.segments, self.views, self.unsequenced = self.total(), [], Counter(), Counter()
        self.complete_after = self.last + 1 if self.numbered else None
        return dropped

    def done(self) -> int:
        """Return the number up to which nothing is left to fold; 0 where that is not known."""
        return 0 if self.segments or not self.numbered else self.last

    def total(self) -> int:
        """Return how many views are in memory."""
        return self._sum() + self.views.total() + self.unsequenced.total()

    def ids(self) -> int:
        """Return how many entries are in memory."""
        return (
            len(self.views)
            + len(self.unsequenced)
            + sum(len(part.views) + len(part.unsequenced) for part in self.segments)
        )

    def _add(self, number: int, views: Counter[str], unsequenced: Counter[str] | None = None) -> None:
        if not views and not unsequenced:
            return
        if not self.segments or self.segments[-1].number != number:
            self.segments.append(Segment(number, Counter()))
        self.segments[-1].views += views
        self.segments[-1].unsequenced += unsequenced or Counter()

    def _sum(self) -> int:
        return sum(segment.views.total() + segment.unsequenced.total() for segment in self.segments)
