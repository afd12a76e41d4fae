"""What must hold in every state, and what each disaster is excused for.

`pending` are the counters once everything that the ledger holds and the marker does not is subtracted. At a quiet
moment (no run is alive), for each VOD,

    sent - excused <= totals + pending <= sent

and at any moment, for a reader that adds PostgreSQL and Redis, totals + counter >= sent - excused. Nothing ever excuses
a view that is counted twice. What is excused, per VOD, at most:

- Redis emptied: what was pending at that moment. What was committed, or read by a run that commits it later, is kept.
- Redis restored or failed over to an older copy: the views that came in since the copy was made. Without R7, some
  of these may have been committed already; then as many later views are taken for them (drift). With R7 they never
  are: what is lost is at most what was pending at that moment.
- The same with a copy of other counters (emptied in between): what was pending, and without R7 what the ledger took
  from the old counters beyond what the copy holds of them.
- PostgreSQL rolled back: the views of the flushes that it lost. Those that were not settled come again.

One disaster is left out, because the protocol cannot tell it from an emptied Redis: a Redis that falls back to a copy
without a marker (from before the first run, or between being emptied and the next run) counts what was committed from
those counters since then once more. `explore` makes no such copy; a test shows what it would do.
"""

from __future__ import annotations

from viewer_pipeline_tests.model.calls import batches_beyond, last_flush
from viewer_pipeline_tests.model.design import Design
from viewer_pipeline_tests.model.values import ENDED, Postgres, Redis, Views, World


def due(redis: Redis, postgres: Postgres, design: Design) -> Views:
    """Return the views that the ledger holds and that are still to be subtracted from this Redis."""
    views = [0] * len(redis.counters)
    if redis.marker is not None:
        for batch in batches_beyond(postgres, redis.marker, last_flush(postgres)[0]):
            if batch.epoch == redis.marker.epoch or not design.epoch:
                views[batch.vod] += batch.delta
    return tuple(views)


def pending(redis: Redis, postgres: Postgres, design: Design) -> Views:
    """Return the views that Redis alone has; less than nothing where it lost views that were committed."""
    return tuple(n - d for n, d in zip(redis.counters, due(redis, postgres, design), strict=True))


def excuse_emptied(world: World, design: Design) -> Views:
    """Return what an emptied Redis may lose."""
    return _added(world.excused, (max(n, 0) for n in pending(world.redis, world.postgres, design)))


def excuse_restored(world: World, design: Design) -> Views:
    """Return what a Redis that falls back to the copy may lose."""
    now = pending(world.redis, world.postgres, design)
    if world.copy.lineage == world.redis.lineage:
        gone = [n - c for n, c in zip(world.redis.incremented, world.copy.incremented, strict=True)]
        if design.wait:
            gone = [min(g, max(n, 0)) for g, n in zip(gone, now, strict=True)]
    else:
        then = pending(world.copy, world.postgres, design)
        gone = [max(n, 0) + (0 if design.wait else max(-t, 0)) for n, t in zip(now, then, strict=True)]
    return _added(world.excused, gone)


def excuse_rolled_back(world: World) -> Views:
    """Return what a PostgreSQL that falls back to the dump may lose."""
    kept = {flush for flush in world.dump.ledger}
    gone = [0] * len(world.sent)
    for flush in world.postgres.ledger:
        if flush not in kept:
            for batch in flush.batches:
                gone[batch.vod] += batch.delta
    return _added(world.excused, gone)


def violation(world: World, design: Design) -> str:
    """Say what is wrong in this state; empty if nothing is."""
    totals = world.postgres.totals
    for vod, sent in enumerate(world.sent):
        if totals[vod] + world.redis.counters[vod] < sent - world.excused[vod]:
            return f"a reader misses views of VOD {vod}: {_said(world)}"
    if world.redis.refuses and world.postgres.ledger:
        return f"committed although Redis refuses to be lowered: {_said(world)}"
    if any(run is not ENDED and run != ENDED for run in world.runs):
        return ""
    for vod, alone in enumerate(pending(world.redis, world.postgres, design)):
        if totals[vod] + max(alone, 0) > world.sent[vod]:
            return f"doubled views of VOD {vod}: {_said(world)}"
        if totals[vod] + max(alone, 0) < world.sent[vod] - world.excused[vod]:
            return f"lost views of VOD {vod}: {_said(world)}"
    return ""


def _said(world: World) -> str:
    counters, marker = world.redis.counters, world.redis.marker
    return f"sent {world.sent}, totals {world.postgres.totals}, counters {counters}, {marker}, excused {world.excused}"


def _added(views: Views, more: object) -> Views:
    return tuple(a + b for a, b in zip(views, more, strict=True))  # type: ignore[call-overload]  # an iterable of int
