"""What was heard on the channel, cut as the worker cuts it, so that it is known which of it has been folded. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from viewer_pipeline.ingest.messages import InvalidMessage, parse_view
from viewer_pipeline.ingest.segment_parts import part_of


class Folds(NamedTuple):
    """How far the worker has folded: all segments up to `folded`, and `part` of the `of` parts of `segment`."""

    folded: int
    segment: int
    part: int
    of: int

    @classmethod
    def read(cls, fields: Sequence[bytes | None]) -> Self:
        """Read it from the subscriber hash."""
        return cls(*(int(found) if found and found.isdigit() else 0 for found in fields))

    @property
    def begun(self) -> int:
        """Return the segment of which some parts are folded and some are not; 0 for none."""
        return self.segment if self.segment > self.folded and self.part < self.of else 0


@dataclass
class Traffic:
    """Views by VOD, as messages say. `fresh`: since the last call of `take`."""

    channel: bytes
    cuts: bytes  # channel of the cuts
    messages: int = 0
    rejected: int = 0
    views: int = 0
    fresh: Counter[str] = field(default_factory=Counter)
    whole_after: int | None = None  # segments above this number were heard whole; None: no cut was heard
    _last: int = 0
    _open: Counter[str] = field(default_factory=Counter)
    _segments: deque[tuple[int, Counter[str]]] = field(default_factory=deque)

    def hear(self, channel: bytes, payload: bytes) -> None:
        """Count a message, or end a segment at a cut."""
        if channel == self.channel:
            self._count(payload)
        elif channel == self.cuts:
            number = payload.partition(b" ")[0]
            if number.isdigit():
                self._cut(int(number))

    def take(self) -> Counter[str]:
        """Return the views that were heard since the last call."""
        fresh, self.fresh = self.fresh, Counter()
        return fresh

    def folded(self, before: Folds, now: Folds) -> Counter[str] | None:
        """Return the views that were folded in between; None where that is not known. Asked for in order of time."""
        if now == before:
            return Counter()
        known = self.whole_after is not None and self.whole_after <= before.folded <= now.folded <= self._last
        views = Counter[str]()
        while self._segments and self._segments[0][0] <= now.folded:
            number, segment = self._segments.popleft()
            done = before.part if number == before.begun else 0
            views.update(_parts(segment, before.of if done else 1, done, before.of if done else 1))
        if now.begun and self._segments and self._segments[0][0] == now.begun:
            done = before.part if before.begun == now.begun else 0
            views.update(_parts(self._segments[0][1], now.of, done, now.part))
        return views if known else None

    def _count(self, payload: bytes) -> None:
        self.messages += 1
        try:
            vod_id, count = parse_view(payload)
        except InvalidMessage:
            self.rejected += 1
            return
        self.views += count
        self.fresh[vod_id] += count
        self._open[vod_id] += count

    def _cut(self, number: int) -> None:
        if self.whole_after is None or number <= self._last:  # the first, or Redis lost what it knew
            self.whole_after = number
            self._segments.clear()
        elif self._open:
            self._segments.append((number, self._open))
        self._last, self._open = number, Counter()


def _parts(views: Counter[str], of: int, after: int, through: int) -> dict[str, int]:
    """Return what is in the parts `after` + 1 … `through` of a segment that is folded in `of` parts."""
    return {vod_id: count for vod_id, count in views.items() if after < part_of(vod_id, of) <= through}
