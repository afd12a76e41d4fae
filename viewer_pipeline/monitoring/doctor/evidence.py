"""What counters gained, held against what messages said and what the worker folded. Pure.

Between two looks, a VOD's counter gains what producers add and what the worker folds, and loses what is settled. The
last two are known to the view, so what producers added themselves is what remains:

    gained = (counter now - counter then) + settled = counted by producers + folded by a worker that adds (if it does)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

CLEARER = 4.0  # how many times less one of two laws must miss to be the right one
CLEAR_VIEWS = 5  # of one VOD, from which on it is told whether that VOD is counted
CLEAR_SHARE = 0.25


class Sight(NamedTuple):
    """The first look at the counter of a VOD: after so many views were heard of it, and so many of them folded."""

    heard: int
    folded: int
    counter: int


@dataclass
class Evidence:
    """Sums over all pairs of looks that could be compared."""

    heard: Counter[str] = field(default_factory=Counter)
    folded: Counter[str] = field(default_factory=Counter)
    gained: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    lowered: set[str] = field(default_factory=set)  # VODs whose counters were lowered by nobody of ours
    unknown: int = 0  # pairs that could not be compared: folds of what was published before, a flush not to be read
    sights: list[Sight] = field(default_factory=list)
    pairs: list[tuple[int, int, int]] = field(default_factory=list)  # heard, folded, gained

    def add(
        self,
        before: Mapping[str, int],
        now: Mapping[str, int],
        heard: Counter[str],
        folded: Counter[str],
        settled: Counter[str],
    ) -> None:
        """Add what happened between two looks at the counters that are in both."""
        sums = [0, 0, 0]
        for vod_id, count in now.items():
            if vod_id not in before:
                continue
            gained = count - before[vod_id] + settled[vod_id]
            if gained < 0:
                self.lowered.add(vod_id)
                continue
            for at, (total, views) in enumerate(
                ((self.heard, heard[vod_id]), (self.folded, folded[vod_id]), (self.gained, gained))
            ):
                if views:
                    total[vod_id] += views
                    sums[at] += views
        self.looks += 1
        if any(sums):
            self.pairs.append((sums[0], sums[1], sums[2]))

    def worker_adds(self) -> bool | None:
        """Tell whether counters grow when the worker folds (PUBSUB_MODE=increment); None where that cannot be told.

        What was heard is folded a moment later, so the two do not grow in step, and the gains follow one law only:
        gained = a * heard, or gained = a * heard + folded. The one that misses much less is right.
        """
        without, with_it = (self._misses(adds) for adds in (0, 1))
        if min(without, with_it) * CLEARER >= max(without, with_it):
            return None
        return with_it < without

    def _misses(self, adds: int) -> float:
        """Return by how much the law misses what counters gained, squared and summed, with the best `a` for it."""
        pairs = [(heard, gained - adds * folded) for heard, folded, gained in self.pairs]
        squares = sum(heard * heard for heard, _ in pairs)
        share = sum(heard * rest for heard, rest in pairs) / squares if squares else 0.0
        return sum((rest - share * heard) ** 2 for heard, rest in pairs)

    def counted(self, *, worker_adds: bool) -> Counter[str]:
        """Return what producers added themselves to VODs that were heard; it may be off by what is under way."""
        return Counter(
            {
                vod_id: self.gained[vod_id] - (self.folded[vod_id] if worker_adds else 0)
                for vod_id, views in self.heard.items()
                if views
            }
        )

    def at_first_sight(self, *, worker_adds: bool) -> tuple[int, int]:
        """Return how many VODs had just the views in them that were heard, and how many had none of them.

        Tells something where each VOD is heard of once, and its counter was flushed before: in the first case it
        holds those views and no others, unless that many were left there by chance; in the second it is not there.
        """
        rests = [(sight.counter - (sight.folded if worker_adds else 0), sight.heard) for sight in self.sights]
        return sum(rest == heard for rest, heard in rests), sum(rest == 0 for rest, _ in rests)

    def unheard(self) -> Counter[str]:
        """Return what counters gained of which no message told."""
        return Counter({v: n for v, n in self.gained.items() if n > 0 and not self.heard[v] and not self.folded[v]})

    def clear(self, *, worker_adds: bool) -> tuple[list[str], list[str]]:
        """Return the VODs whose producers clearly count, and those whose producers clearly do not."""
        counted = self.counted(worker_adds=worker_adds)
        enough = {vod_id: views for vod_id, views in self.heard.items() if views >= CLEAR_VIEWS}
        yes = [vod_id for vod_id, views in enough.items() if counted[vod_id] > (1 - CLEAR_SHARE) * views]
        no = [vod_id for vod_id, views in enough.items() if counted[vod_id] < CLEAR_SHARE * views]
        return yes, no
