"""SIGKILL at random moments under constant traffic; the supervisor restarts the program at once."""

from __future__ import annotations

import random
import time

from tools.peers.peers import Peer
from tools.peers.plan import Plan
from tools.peers.scenarios.differences import Differences, drain_and_compare
from tools.peers.traffic import Traffic
from tools.peers.world import POLL_SECONDS, World, running

# After the first totals that a restarted program has written: so each gets to work, however long it takes to start.
MAX_SECONDS_AT_WORK = 2.0
START_SHARE = 0.2  # of the kills: this soon after the restart, while it starts and recovers
MAX_SECONDS_OF_START = 3.0
MAX_WAIT = 30.0  # for the first totals after a restart


def measure_kills(peer: Peer, plan: Plan) -> Differences:
    """Kill the program as often as the plan says."""
    generator = random.Random(plan.seed)
    with running(peer, plan, vods=plan.vods) as world:
        with Traffic(world, vods=plan.vods, views_per_second=plan.views_per_second, seed=plan.seed):
            for _ in range(plan.kills):
                if generator.random() < START_SHARE:
                    time.sleep(generator.uniform(0, MAX_SECONDS_OF_START))
                else:
                    _wait_for_progress(world)
                    time.sleep(generator.uniform(0, MAX_SECONDS_AT_WORK))
                world.history.add_fault(time.monotonic(), "SIGKILL")
                world.process.kill()
        return drain_and_compare(world, plan, "kills")


def _wait_for_progress(world: World) -> None:
    """Wait until the totals change."""
    before, deadline = world.read_sum(), time.monotonic() + MAX_WAIT
    while world.read_sum() == before and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
