"""The law that must hold in every state, and the losses that it allows each disaster.

`pending` are the counters minus everything that the ledger holds beyond the marker. For each VOD, while no run lives,

    lower <= totals + held + pending    and    totals + pending <= upper <= sent

and at any time, for a reader that adds PostgreSQL (with what is held) and Redis, totals + held + counter >= lower.
Without a disaster, all of these equal `sent`. A disaster lowers `lower` by the loss that is allowed. If no run is alive
that remembers the state before the disaster, the remaining views are known, and both bounds become that number (with R7
exactly): afterwards nothing more may be lost or reappear. A view that is counted twice is never allowed. Allowed
losses, per VOD:

- Redis emptied: the pending views. Views that were committed, or read by a run that commits them later, are kept.
- Redis restored or failed over to an older copy: the views that arrived since the copy was made. Without R7, some of
  these may have been committed already; then as many later views are subtracted in their place (drift). With R7 that
  never happens: at most the pending views are lost.
- The same with a copy of other counters (emptied in between): the pending views, and without R7 the views that the
  ledger took from the old counters beyond those in the copy.
- PostgreSQL rolled back: the views of the lost flushes. Those that were not settled are counted again. With R18
  nothing: what the older state lacks was not settled.

Held views (R16) are views that may have been counted before: they count for `lower`, and not for `upper`. What the next
run will hold does not count for `upper` either.
"""

from __future__ import annotations

from viewer_pipeline_tests.model.calls import last_flush, read_batches_after
from viewer_pipeline_tests.model.design import Design
from viewer_pipeline_tests.model.values import ENDED, Postgres, Redis, Run, Views, World


def due(redis: Redis, postgres: Postgres, design: Design) -> Views:
    """Return the views that the ledger holds and that are still to be subtracted from this Redis."""
    views = [0] * len(redis.counters)
    if redis.marker is not None:
        for batch in read_batches_after(postgres, redis.marker, last_flush(postgres)[0]):
            if batch.epoch == redis.marker.epoch or not design.epoch:
                views[batch.vod] += batch.delta
    return tuple(views)


def pending(redis: Redis, postgres: Postgres, design: Design) -> Views:
    """Return the views that Redis alone has; negative if it lost views that were committed."""
    return tuple(n - d for n, d in zip(redis.counters, due(redis, postgres, design), strict=True))


def emptied(before: World, design: Design) -> Views:
    """Return the views that an emptied Redis may lose."""
    return tuple(max(n, 0) for n in pending(before.redis, before.postgres, design))


def restored(before: World, design: Design) -> Views:
    """Return the views that a Redis that falls back to the copy may lose."""
    now = pending(before.redis, before.postgres, design)
    if before.copy.lineage == before.redis.lineage:
        gone = [n - c for n, c in zip(before.redis.incremented, before.copy.incremented, strict=True)]
        if design.wait:
            gone = [min(g, max(n, 0)) for g, n in zip(gone, now, strict=True)]
        return tuple(gone)
    then = pending(before.copy, before.postgres, design)
    return tuple(max(n, 0) + (0 if design.wait else max(-t, 0)) for n, t in zip(now, then, strict=True))


def rolled_back(before: World, design: Design) -> Views:
    """Return the views that a PostgreSQL that falls back to the dump may lose."""
    gone = [0] * len(before.sent)
    if design.standby:
        return tuple(gone)
    for flush in before.postgres.ledger:
        if flush not in before.dump.ledger:
            for batch in flush.batches:
                gone[batch.vod] += batch.delta
    return tuple(gone)


def excuse(after: World, views: Views, design: Design) -> World:
    """Return the world after a disaster that may have lost these views, with the bounds from now on."""
    lower = tuple(n - v for n, v in zip(after.lower, views, strict=True))
    if any(_remembers(run) for run in after.runs):
        return after._replace(lower=lower, upper=after.sent)
    alone = pending(after.redis, after.postgres, design)
    left = tuple(t + max(n, 0) for t, n in zip(_stored(after.postgres), alone, strict=True))
    if any(not low <= n <= sent for low, n, sent in zip(lower, left, after.sent, strict=True)):
        return after._replace(lower=lower, upper=after.sent)  # violated already: the next state without a run shows it
    drift = (0 if design.wait else min(n, 0) for n in alone)
    return after._replace(lower=tuple(n + d for n, d in zip(left, drift, strict=True)), upper=left)


def _remembers(run: Run) -> bool:
    """Whether the run holds views or batches that it may still use."""
    busy = run.read or run.rows or run.committed or run.settler
    return bool(busy) or bool(run.settling and run.settling.due)


def violation(world: World, design: Design) -> str:
    """Return the violation of the law in this state; "" if there is none."""
    stored, totals = _stored(world.postgres), world.postgres.totals
    for vod in range(len(world.sent)):
        if stored[vod] + world.redis.counters[vod] < world.lower[vod]:
            return f"a reader misses views of VOD {vod}: {_summary(world)}"
    if world.redis.refuses and world.postgres.ledger:
        return f"committed although Redis refuses to be lowered: {_summary(world)}"
    if any(run != ENDED for run in world.runs):
        return ""
    holds = _will_hold(world, design)
    for vod, alone in enumerate(pending(world.redis, world.postgres, design)):
        left = max(alone, 0)
        if totals[vod] + left - min(left, stored[vod] if holds else 0) > world.upper[vod]:
            return f"doubled views of VOD {vod}: {_summary(world)}"
        if stored[vod] + left < world.lower[vod]:
            return f"lost views of VOD {vod}: {_summary(world)}"
    return ""


def _stored(postgres: Postgres) -> Views:
    return tuple(map(sum, zip(postgres.totals, postgres.held, strict=True)))


def _will_hold(world: World, design: Design) -> bool:
    """Whether the next run holds views."""
    marker, last = world.redis.marker, last_flush(world.postgres)
    if not design.hold or not last[0]:
        return False
    if marker is None or any(marker.hold):
        return True
    return any(batch.epoch != marker.epoch for batch in read_batches_after(world.postgres, marker, last[0]))


def _summary(world: World) -> str:
    totals, (counters, marker, *_) = world.postgres.totals, world.redis
    stored = f"totals {totals}, held {world.postgres.held}"
    return f"sent {world.sent}, {stored}, counters {counters}, {marker}; {world.lower} to {world.upper}"
