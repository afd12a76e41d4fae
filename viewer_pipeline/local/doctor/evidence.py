"""What counters gained, held against what messages said and what the worker folded. Pure.

Between two looks, a VOD's counter gains what producers add and what the worker folds, and loses what is settled. The
last two are known to the view, so what producers added themselves is what remains:

    gained = (counter now - counter then) + settled = counted by producers + folded by a worker that adds (if it does)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

ENOUGH = 0.25  # how near to 0 or 1 the share must be by which the worker adds what it folds
ALIKE = 0.97  # correlation (squared) of heard and folded above which nothing can be told apart
CLEAR_VIEWS = 5  # of one VOD, from which on it is told whether that VOD is counted
CLEAR_SHARE = 0.25


@dataclass
class Evidence:
    """Sums over all pairs of looks that could be compared."""

    heard: Counter[str] = field(default_factory=Counter)
    folded: Counter[str] = field(default_factory=Counter)
    gained: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    unknown: int = 0  # pairs that could not be compared: folds of what was published before, a flush not to be read
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

        By least squares of gained = a * heard + b * folded: what was heard is folded a moment later, and that moment
        tells the two apart.
        """
        heard2 = sum(m * m for m, _, _ in self.pairs)
        folded2 = sum(w * w for _, w, _ in self.pairs)
        both = sum(m * w for m, w, _ in self.pairs)
        if not folded2 or both * both > ALIKE * heard2 * folded2:
            return None
        with_heard, with_folded = (sum(pair[at] * pair[2] for pair in self.pairs) for at in (0, 1))
        share = (
            (heard2 * with_folded - both * with_heard) / (heard2 * folded2 - both * both)
            if heard2
            else with_folded / folded2
        )
        return share > 0.5 if min(abs(share), abs(share - 1)) < ENOUGH else None

    def counted(self, *, worker_adds: bool) -> Counter[str]:
        """Return what producers added themselves to VODs that were heard; it may be off by what is under way."""
        return Counter(
            {
                vod_id: self.gained[vod_id] - (self.folded[vod_id] if worker_adds else 0)
                for vod_id, views in self.heard.items()
                if views
            }
        )

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
