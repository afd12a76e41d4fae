"""Lost and doubled views: what was sent, compared with what is in the totals and in the counters."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from tools.peers.plan import Plan
from tools.peers.world import World


@dataclass(frozen=True)
class Differences:
    """Sums over VODs of what is too little and of what is too much. Neither hides the other."""

    sent: int
    lost: int
    doubled: int
    pending: int  # in the counters; neither lost nor persisted, although the program had time to write them

    @property
    def is_exact(self) -> bool:
        """Whether every view is persisted once."""
        return not (self.lost or self.doubled or self.pending)


def drain_and_compare(world: World, plan: Plan, scenario: str) -> Differences:
    """Wait until nothing changes any more, then compare each VOD; write the history if the plan wants it."""
    world.wait_until_drained(plan)
    begin = time.monotonic()
    pending, totals = world.read_pending(list(world.sent)), world.read_totals()
    world.history.add_final(begin, totals, pending)
    if plan.history is not None:
        plan.history.mkdir(parents=True, exist_ok=True)
        world.history.write(plan.history / f"{world.peer.name}-{scenario}.jsonl")
    return compare(world.sent, totals, pending)


def compare(sent: Counter[str], totals: Counter[str], pending: Counter[str]) -> Differences:
    """Compare each VOD."""
    counted = totals + pending
    return Differences(sent.total(), (sent - counted).total(), (counted - sent).total(), pending.total())
