"""The calls to Redis and PostgreSQL, each atomic: pure functions of a server's state."""

from __future__ import annotations

from typing import Literal, NamedTuple

from viewer_pipeline_tests.model.design import Design
from viewer_pipeline_tests.model.values import Batch, Flush, Marker, Postgres, Redis, Run, Views

Outcome = Literal["done", "subtracted", "refused"]


def put(views: Views, vod: int, value: int) -> Views:
    """Return `views` with another value for one VOD."""
    return (*views[:vod], value, *views[vod + 1 :])


# --- Redis ---


def increment(redis: Redis, vod: int) -> Redis:
    """INCR by a producer, or by the fold of a segment."""
    return redis._replace(
        counters=put(redis.counters, vod, redis.counters[vod] + 1),
        incremented=put(redis.incremented, vod, redis.incremented[vod] + 1),
    )


class Begun(NamedTuple):
    """Reply of `begin`; `other`: the line in the marker is neither of the two in the request."""

    redis: Redis
    marker: Marker
    made: bool
    other: bool


def begin(redis: Redis, run: Run, epoch: int, design: Design) -> Begun:
    """Create the marker at `last` with a new epoch if there is none; write the line into it; return the marker."""
    last, line = run.last, run.line
    if redis.marker is None:
        by = run.after.by if run.after else 0
        made = Marker(last[0], last[1], last[1], epoch if design.epoch else 1, line if design.line else 0, by)
        if last[0] and design.hold:
            made = made._replace(hold=(last[0], 0))
        return Begun(redis._replace(marker=made), made, made=True, other=False)
    if not design.line or redis.marker.line == line:
        return Begun(redis, redis.marker, made=False, other=False)
    if redis.marker.line != run.instead:
        return Begun(redis, redis.marker, made=False, other=True)
    marker = redis.marker._replace(line=line)
    return Begun(redis._replace(marker=marker), marker, made=False, other=False)


def subtract(redis: Redis, batch: Batch, design: Design) -> Redis:
    """Lower the counter of a batch, not below zero, if the marker has the same epoch."""
    assert redis.marker is not None
    if batch.epoch != redis.marker.epoch and design.epoch:
        return redis
    left = 0 if design.broken == "R2" else max(redis.counters[batch.vod] - batch.delta, 0)
    return redis._replace(counters=put(redis.counters, batch.vod, left))


def move(redis: Redis, batch: Batch, known: Marker, design: Design) -> Redis:
    """Advance the marker to a batch; keep the sender's record of flushes that its ledger has lost.

    The views of a batch that is skipped may be in these counters.
    """
    assert redis.marker is not None
    missing = known.missing if any(known.missing) else redis.marker.missing
    hold = redis.marker.hold
    if design.hold and design.epoch and design.broken != "R16-skip" and batch.epoch != redis.marker.epoch:
        hold = (batch.seq, batch.number)
    at = redis.marker._replace(hold=hold, seq=batch.seq, batch=batch.number, of=batch.of, by=batch.by, missing=missing)
    return redis._replace(marker=at)


def settle(redis: Redis, batch: Batch, known: Marker, line: int, design: Design) -> tuple[Outcome, Redis]:
    """Run the settling script: subtract and move the marker, if it is at the position that the caller expects."""
    marker = redis.marker
    if marker is None or redis.refuses or (design.epoch and marker.epoch != known.epoch):
        return "refused", redis
    other = design.history and batch.seq == marker.seq and batch.by != marker.by
    if design.broken != "R4-unmarked":
        if (batch.seq, batch.number) <= (marker.seq, marker.batch) and not other:
            return "done", redis
        if other or not _follows(batch, marker, known, design) or (design.line and marker.line != line):
            return "refused", redis
    redis = subtract(redis, batch, design)
    if design.broken == "R4":
        return "subtracted", redis
    if (batch.seq, batch.number) <= (marker.seq, marker.batch):
        return "subtracted", redis
    return "subtracted", move(redis, batch, known, design)


def _follows(batch: Batch, marker: Marker, known: Marker, design: Design) -> bool:
    if design.broken == "R5":
        return True
    if design.broken == "ADR2":
        same = batch.seq == marker.seq and batch.number == marker.batch + 1
        return same or (batch.seq > marker.seq and batch.number == 1 and marker.batch == marker.of)
    return (marker.seq, marker.batch) == (known.seq, known.batch)


def end_hold(redis: Redis, run: Run, design: Design) -> Redis:
    """Remove `hold` from the marker, if it is that which the run had seen before it read the first counter."""
    marker = redis.marker
    if marker is None:
        return redis
    if design.broken != "R16-end" and (marker.epoch != run.marker.epoch or marker.hold != run.hold):
        return redis
    return redis._replace(marker=marker._replace(hold=(0, 0)))


# --- PostgreSQL ---


def other_history(postgres: Postgres, marker: Marker, design: Design) -> bool:
    """Whether the ledger has a flush that it cannot have if only this ledger settled Redis."""
    after, through = marker.missing
    return design.history and any(
        (flush.seq == marker.seq and flush.by != marker.by) or after < flush.seq <= through for flush in postgres.ledger
    )


def last_flush(postgres: Postgres) -> tuple[int, int]:
    """Read seq and number of batches of the newest flush."""
    return (postgres.ledger[-1].seq, len(postgres.ledger[-1].batches)) if postgres.ledger else (0, 0)


def read_batches_after(postgres: Postgres, marker: Marker, through: int) -> tuple[Batch, ...]:
    """List the batches after the marker, up to and including flush `through`."""
    return tuple(
        batch
        for flush in postgres.ledger
        if flush.seq <= through
        for batch in flush.batches
        if (batch.seq, batch.number) > (marker.seq, marker.batch)
    )


def commit(postgres: Postgres, run: Run, flush: Flush, design: Design) -> Postgres | None:
    """Add a flush to ledger and totals; None if another run committed above its base, or the ledger is another."""
    if design.line and postgres.line != run.line:
        return None
    if design.after and run.after is not None and run.after not in postgres.ledger:
        return None
    if design.broken != "R3-unique" and last_flush(postgres)[0] > run.base:
        return None
    postgres = postgres._replace(ledger=tuple(sorted((*postgres.ledger, flush))))
    return postgres if design.broken == "R1" else add_to_totals(postgres, flush)


def add_to_totals(postgres: Postgres, flush: Flush) -> Postgres:
    """Add the batches of a flush to the totals, or to what is held."""
    views = postgres.held if flush.held else postgres.totals
    for batch in flush.batches:
        views = put(views, batch.vod, views[batch.vod] + batch.delta)
    return postgres._replace(held=views) if flush.held else postgres._replace(totals=views)
