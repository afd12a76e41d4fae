"""Received views of a worker in a cluster whose messages carry views. Pure.

Every node has an order of its own for the messages of several nodes. So a segment is what was received between two
cuts of one node, at that node. A cut names the one before it, because numbers are times and do not follow each other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from viewer_pipeline.ingest.segment_buffer import VOID, Cut, SegmentBuffer


@dataclass
class NodeSegmentBuffer(SegmentBuffer):
    """The segments of one worker. Views whose place between the cuts of their node is unknown are dropped.

    No script can compare the lease and raise a counter. So nothing is kept that another worker may have under another
    number: there are no unsequenced views.
    """

    node: str = ""  # of the last cut that was received there
    is_void: bool = False  # a cut of another node was received on this connection, and none of its own since
    # Of the last connection that broke, since its last cut: they are in the segment that the next cut there ends
    tail: Counter[str] = field(default_factory=Counter)
    tail_after: int = 0  # the number of that cut
    published: dict[int, int] = field(default_factory=dict)  # by this worker: number by that of the cut before

    def receive_cut(self, cut: Cut, node: str) -> int:
        """End the open segment; drop what is folded. Return how many views were dropped. `node`: of the subscription.

        Views before the first cut on a connection are in the segment that it ends, as on a single Redis; but only if
        this node published the cut before, and this worker was subscribed nowhere else.
        """
        if cut.node != node:
            self.is_void, self.numbered, self.complete_after = True, False, None
            return self._drop_open_views() + self._drop_tail() + self.drop_folded(cut.folded)
        dropped = 0
        if self._is_open_segment_void(cut, node):
            dropped = self._drop_open_views()
        elif cut.previous == self.tail_after:
            self.open_views += self.tail
            self.tail = Counter()
        dropped += self._drop_tail()
        dropped += self.cut_open_segment(cut.number, cut.folded)
        self.node, self.is_void = node, False
        self.published = {previous: number for previous, number in self.published.items() if number > cut.number}
        return dropped

    def note_published(self, cut: Cut) -> None:
        """Note a cut that this worker has published, and may not receive."""
        self.published[cut.previous] = cut.number

    def close_segment_of_lost_connection(self, *, is_holder: bool) -> int:  # noqa: ARG002 - the lease decides nothing
        """Close the open segment of a connection that was lost. Return how many views were dropped.

        It is in the segment that the next cut ends, whether this worker has published that one or will receive it.
        """
        views, self.open_views = self.open_views, Counter()
        dropped = 0
        if not self.numbered:
            dropped = views.total()
        elif (number := self.published.get(self.last_cut)) is not None:
            self._add_to_segment(number, views)
        else:
            dropped = self._drop_tail()
            self.tail, self.tail_after = views, self.last_cut
        self.numbered, self.is_void, self.predates_lease, self.complete_after = False, False, False, None
        return dropped

    def drop_all(self) -> int:
        """Drop everything; return how many views that were. The open segment is incomplete from now on."""
        return self._drop_tail() + super().drop_all()

    def view_count(self) -> int:
        """Return how many views are in memory."""
        return super().view_count() + self.tail.total()

    def entry_count(self) -> int:
        """Return how many entries are in memory."""
        return super().entry_count() + len(self.tail)

    def _is_open_segment_void(self, cut: Cut, node: str) -> bool:
        """Whether the open segment may have views that another worker has under the number of another segment."""
        if cut.previous == VOID or self.is_void:
            return True
        if cut.previous == 0:  # Redis was emptied, or this is the first cut of all
            return self.node not in ("", node)
        return self.numbered and cut.previous != self.last_cut

    def _drop_open_views(self) -> int:
        dropped, self.open_views = self.open_views.total(), Counter()
        return dropped

    def _drop_tail(self) -> int:
        dropped, self.tail = self.tail.total(), Counter()
        return dropped
