"""Faults other than a kill: Redis falls back to an older copy, replies are lost, a VOD is deleted."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tools.peers.peers import Peer
from tools.peers.plan import Plan
from tools.peers.scenarios.differences import Differences, compare, drain_and_compare
from tools.peers.traffic import Traffic
from tools.peers.world import running, vod_ids

LOSS = 0.01  # of the replies
VIEWS_PER_SECOND = 3_000  # while replies are lost
SETTLE_SECONDS = 3.0  # after Redis fell back


@dataclass(frozen=True)
class DeletedVod:
    """Differences of the other VODs, and lost views of the VOD that was deleted and created again."""

    others: Differences
    lost_of_deleted: int


def measure_redis_fallback(peer: Peer, plan: Plan) -> Differences:
    """Restart Redis from a copy of itself that has pending views.

    All views are persisted before the restart, those in the copy and those that were sent after it. So Redis loses none
    that was not persisted, and every view sent must be in the totals once. New views are sent after three intervals, in
    which the program can notice.
    """
    with running(peer, plan, vods=plan.vods, redis_append_only=False) as world:
        world.fill(plan.vods)
        world.wait_until_flushed()
        world.fill_and_copy_redis(plan.vods, views=2)
        world.wait_until_flushed()
        world.fill(plan.vods // 2)
        world.wait_until_flushed()
        begin = time.monotonic()
        world.restart_redis_from_copy()
        world.history.add_fault(begin, "Redis fell back to a copy")
        time.sleep(SETTLE_SECONDS)
        world.fill(plan.vods)
        return drain_and_compare(world, plan, "redis-fallback")


def measure_lost_replies(peer: Peer, plan: Plan) -> Differences:
    """Close the connection instead of forwarding one reply in a hundred, of both servers, under constant traffic."""
    with running(peer, plan, vods=plan.vods, lossy=True) as world:
        with Traffic(world, vods=plan.vods, views_per_second=VIEWS_PER_SECOND, seed=plan.seed):
            for proxy in world.proxies:
                proxy.loss = LOSS
            time.sleep(plan.seconds_of_loss)
        for proxy in world.proxies:
            proxy.loss = 0.0
        return drain_and_compare(world, plan, "lost-replies")


def measure_deleted_vod(peer: Peer, plan: Plan) -> DeletedVod:
    """Delete the row of a VOD that gets views, in the table that the totals reference; create it again later."""
    (deleted,) = vod_ids(1)
    with running(peer, plan, vods=plan.vods, foreign_key=True) as world:
        world.connection.execute("DELETE FROM vod WHERE id = %s", [deleted])
        world.fill(plan.vods)
        world.wait_until_drained(plan)
        world.connection.execute("INSERT INTO vod (id) VALUES (%s)", [deleted])
        world.fill(plan.vods)
        totals = world.wait_until_drained(plan)
        lost = world.sent.pop(deleted) - totals.pop(deleted, 0)
        return DeletedVod(compare(world.sent, totals, world.read_pending(list(world.sent))), lost)
