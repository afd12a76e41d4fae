"""The steps of one run: drain, commit slice by slice, and settle beside the next transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from viewer_pipeline_tests.model import calls
from viewer_pipeline_tests.model.design import Design
from viewer_pipeline_tests.model.values import ENDED, Batch, Flush, Marker, Run, Settling, World


class Bounds(NamedTuple):
    """The bounds of the exploration of a run."""

    cuts: tuple[int, ...] = (1, 2)  # counters in one transaction
    pipelined: bool = True  # scripts after a refused one may have been sent already
    between_runs: bool = False  # one run at a time; disasters only between runs
    sweeps: bool = True  # runs read all counters by name, so that they may end what is held


Steps = Iterator[tuple[str, World, Run]]
Failed = Literal["failed"]


def steps(world: World, run: Run, design: Design, bounds: Bounds) -> Steps:  # noqa: C901, PLR0912 - a table of states
    """Yield (label, world, run) for each call that the main thread of a run can make next."""
    if run.at == "read ledger" and not run.cut:
        for cut in bounds.cuts:
            yield from _read_ledger(world, run._replace(cut=cut, sweeps=bounds.sweeps), design)
    elif run.at == "read ledger":
        yield from _read_ledger(world, run, design)
    elif run.at == "begin":
        yield from _begin(world, run, design)
    elif run.at == "read ledger again":
        yield from _read_ledger_again(world, run, design)
    elif run.at == "settle":
        assert run.settling is not None
        for label, after, settling in settling_steps(world, run.settling, run.line, design, bounds):
            if settling == "failed":
                yield label, after, ENDED
            elif isinstance(settling, Marker):
                yield label, after, _settled(run, settling, design)
            else:
                yield label, after, run._replace(settling=settling)
    elif run.at == "read":
        yield from _read(world, run, design)
    elif run.at == "check":
        yield from _check(world, run, design)
    elif run.at == "read counted":
        yield "read counted", world, _split(world, run)
    elif run.at == "end hold":
        yield "end hold", world._replace(redis=calls.end_hold(world.redis, run, design)), ENDED
    elif run.at == "commit":
        yield from _commit(world, run, design)
    elif run.at == "totals":  # R1 broken
        assert run.committed is not None
        after = world._replace(postgres=calls.add_to_totals(world.postgres, run.committed))
        yield "totals", after, advance(run._replace(at="add"))


def settler_steps(world: World, run: Run, design: Design, bounds: Bounds) -> Steps:
    """Yield (label, world, run) for each call that the settling thread of a run can make next."""
    if isinstance(run.settler, Settling):
        for label, after, settling in settling_steps(world, run.settler, run.line, design, bounds):
            if settling == "failed":
                yield label, after, advance(run._replace(settler="failed"))
            elif isinstance(settling, Marker):
                yield label, after, advance(run._replace(settler=None, marker=settling))
            else:
                yield label, after, run._replace(settler=settling)


def advance(run: Run) -> Run:
    """Make the transitions without a call: pass a committed flush to the settler, end, or drain again."""
    if run.settler == "failed":
        return ENDED if run.at in ("add", "wait", "again") else run
    if run.settler is not None:
        return run
    if run.at == "add":
        assert run.committed is not None
        batches = run.committed.batches
        settling = Settling("settle", run.marker, run.committed.seq, batches, own=True)
        return run._replace(at="commit" if run.rows else "wait", settler=settling, committed=None)
    if run.at == "wait":
        return _end(run)
    if run.at == "again":
        return Run(cut=run.cut, tries=run.tries - 1, number=run.number, sweeps=run.sweeps)
    return run


def _end(run: Run) -> Run:
    """All counters are committed and settled: none of them holds views any more that may have been counted before."""
    return run._replace(at="end hold") if run.sweeps and any(run.hold) else ENDED


# --- drain ---


def _read_ledger(world: World, run: Run, design: Design) -> Steps:
    if design.broken == "R3-order" and not run.read:
        yield "read early", world, run._replace(read=world.redis.counters)
        return
    last = calls.last_flush(world.postgres)
    yield "read ledger", world, run._replace(at="begin", last=last, after=_newest(world), line=world.postgres.line)


def _newest(world: World) -> Flush | None:
    return world.postgres.ledger[-1] if world.postgres.ledger else None


def _begin(world: World, run: Run, design: Design) -> Steps:
    if world.redis.refuses and design.broken != "R11":
        yield "begin", world, ENDED
        return
    begun = calls.begin(world.redis, run, world.epochs + 1, design)
    after = world._replace(redis=begun.redis, epochs=world.epochs + begun.made)
    if calls.other_history(world.postgres, begun.marker, design):
        yield "begin", after, ENDED
    elif begun.other:
        yield "begin", after, run._replace(at="read ledger", instead=begun.marker.line)
    elif begun.marker.seq <= run.last[0]:
        yield "begin", after, _drain(run, begun.marker, world.redis.life, design)
    else:
        yield "begin", after, run._replace(at="read ledger again", marker=begun.marker, life=world.redis.life)


def _read_ledger_again(world: World, run: Run, design: Design) -> Steps:
    again = calls.last_flush(world.postgres)
    if again[0] > run.last[0]:
        yield "read ledger", world, run._replace(at="begin", last=again, after=_newest(world), line=world.postgres.line)
    else:
        marker = run.marker._replace(missing=(again[0], run.marker.seq)) if design.history else run.marker
        yield "read ledger", world, _drain(run, marker, run.life, design)


def _drain(run: Run, marker: Marker, life: int, design: Design) -> Run:
    base = run.last[0] if design.broken in ("R6", "R6-late") else max(run.last[0], marker.seq)
    run = run._replace(base=base, marker=marker, life=life)
    if design.broken == "R3-settle-first":
        return run._replace(at="read")
    return run._replace(at="settle", settling=Settling("list", marker, run.last[0]))


def _settled(run: Run, marker: Marker, design: Design) -> Run:
    run = run._replace(at="read", settling=None, marker=marker, hold=marker.hold)
    return _rows(run, design) if design.broken == "R3-order" else run


def _read(world: World, run: Run, design: Design) -> Steps:
    vod = len(run.read)
    if vod == len(world.redis.counters):  # R3-order with nothing to settle
        yield "read", world, _rows(run, design)
        return
    run = run._replace(read=(*run.read, world.redis.counters[vod]))
    yield f"read {vod}", world, _rows(run, design) if vod + 1 == len(world.redis.counters) else run


def _rows(run: Run, design: Design) -> Run:
    """Aggregate: leave out empty counters."""
    rows = tuple((vod, views, False) for vod, views in enumerate(run.read) if views > 0)
    run = run._replace(rows=rows if run.tries else (), read=())
    if design.recheck or design.wait or design.broken == "R6-late":
        return run._replace(at="check")
    return _begin_commits(run)


def _begin_commits(run: Run) -> Run:
    if not run.rows:
        return _end(run) if run.tries else ENDED
    return run._replace(at="read counted" if any(run.marker.hold) else "commit")


def _split(world: World, run: Run) -> Run:
    """Hold of each counter as many views as were ever counted; commit new views first."""
    counted = [sum(views) for views in zip(world.postgres.totals, world.postgres.held, strict=True)]
    held = [(vod, min(delta, counted[vod]), True) for vod, delta, _ in run.rows]
    new = [(vod, delta - views, False) for (vod, delta, _), (_, views, _) in zip(run.rows, held, strict=True)]
    return run._replace(at="commit", rows=tuple(row for row in (*new, *held) if row[1]))


def _check(world: World, run: Run, design: Design) -> Steps:
    """After the last read, compare the marker with that of `begin`, and wait until the counters survive a failover."""
    marker, discard = world.redis.marker, False
    if design.broken == "R6-late" and marker is not None:
        run = run._replace(base=max(run.last[0], marker.seq))
    if design.recheck:
        discard = marker is None or marker.epoch != run.marker.epoch
        if design.recheck != "epoch" and marker is not None:
            discard |= (marker.seq, marker.batch) < (run.marker.seq, run.marker.batch)
        discard |= design.recheck == "server" and world.redis.life != run.life
    after = world._replace(copy=world.redis) if design.wait and design.broken != "R7" else world
    if discard:
        yield "check", after, advance(run._replace(at="again"))
    else:
        if design.hold and marker is not None and any(marker.hold):
            run = run._replace(marker=run.marker._replace(hold=marker.hold))
        yield "check", after, _begin_commits(run)


# --- commit ---


def _commit(world: World, run: Run, design: Design) -> Steps:
    part = [row for row in run.rows if row[2] == run.rows[0][2]]
    rows, rest = run.rows[: min(run.cut, len(part))], run.rows[min(run.cut, len(part)) :]
    seq = max(run.base, calls.last_flush(world.postgres)[0] if design.broken == "R3-unique" else 0) + 1
    batches = tuple(
        Batch(seq, number, len(rows), vod, delta, run.marker.epoch if design.epoch else 1, 10 * run.number + run.tries)
        for number, (vod, delta, _) in enumerate(rows, 1)
    )
    flush = Flush(seq, batches, by=10 * run.number + run.tries, held=rows[0][2])
    postgres = calls.commit(world.postgres, run, flush, design)
    if postgres is None:
        yield "commit", world, advance(run._replace(at="again"))
        return
    after = world._replace(postgres=postgres)
    done = run._replace(at="add", rows=rest, base=seq, after=flush, committed=flush)
    if design.broken == "R1":
        yield "commit", after, done._replace(at="totals")
    else:
        yield "commit", after, advance(done)
    if world.left.lost_replies:  # R8: it was committed, and the client cannot know
        left = world.left._replace(lost_replies=world.left.lost_replies - 1)
        again = run._replace(base=seq) if design.broken == "R8" else done._replace(at="find")
        yield "commit without a reply", after._replace(left=left), again
        yield "commit that never arrived", world._replace(left=left), again if design.broken == "R8" else ENDED


# --- settle ---


def settling_steps(
    world: World, now: Settling, line: int, design: Design, bounds: Bounds
) -> Iterator[tuple[str, World, Settling | Marker | Failed]]:
    """Yield (label, world, next state): a Marker if all is settled, "failed" if it cannot continue."""
    if now.at == "list":
        due = calls.read_batches_after(world.postgres, now.known, now.through)
        if not due:
            yield "list", world, now.known
        elif design.line and world.postgres.line != line:
            yield "list", world, "failed"
        else:
            yield "list", world, now._replace(at="settle", due=due, replicated=False)
    elif now.at == "read marker":
        marker = world.redis.marker
        gone = marker is None or (design.line and marker.line != line)
        gone = gone or (marker is not None and calls.other_history(world.postgres, marker, design))
        yield "read marker", world, "failed" if gone or marker is None else Settling("list", marker, now.through)
    elif now.at == "move":
        yield "move", world._replace(redis=calls.move(world.redis, now.due[0], now.known, design)), _sent(now)
    elif design.standby and not now.replicated and design.broken != ("R18" if now.own else "R18-earlier"):
        if now.due[-1] in (batch for flush in world.postgres.ledger for batch in flush.batches):
            yield "standby", world._replace(dump=world.postgres), now._replace(replicated=True)
        else:
            yield "standby", world, "failed"
    else:
        yield from _send(world, now, line, design, bounds)


def _send(
    world: World, now: Settling, line: int, design: Design, bounds: Bounds
) -> Iterator[tuple[str, World, Settling | Marker | Failed]]:
    batch = now.due[0]
    outcome, redis = calls.settle(world.redis, batch, now.known, line, design)
    after = world._replace(redis=redis)
    if world.redis.refuses:
        yield f"settle {batch.vod}", world, "failed"
    elif outcome == "refused":
        refused = now._replace(at="read marker", due=(), refused=False)
        yield f"settle {batch.vod}", after, refused
        if bounds.pipelined and len(now.due) > 1:
            yield f"settle {batch.vod}", after, _sent(now._replace(refused=True))
    elif design.broken == "R4" and outcome == "subtracted":
        yield f"settle {batch.vod}", after, now._replace(at="move")
    else:
        yield f"settle {batch.vod}", after, _sent(now, redis.marker)
        if world.left.resent:  # the client sent it twice
            left = world.left._replace(resent=world.left.resent - 1)
            again = calls.settle(redis, batch, now.known, line, design)[1]
            yield f"settle twice {batch.vod}", world._replace(redis=again, left=left), _sent(now, again.marker)
    if design.broken == "R5" and len(now.due) > 1:  # the first batch was lost
        yield f"settle {batch.vod} is lost", world, _sent(now)


def _sent(now: Settling, replied: Marker | None = None) -> Settling | Marker:
    """Continue with the next batch as if the marker were at this one; after the last, at the marker of the reply."""
    batch = now.due[0]
    known = now.known._replace(seq=batch.seq, batch=batch.number, of=batch.of, by=batch.by)
    if len(now.due) > 1:
        return now._replace(at="settle", known=known, due=now.due[1:])
    if now.refused:
        return now._replace(at="read marker", due=(), refused=False)
    known = replied or known
    return known if now.own else Settling("list", known, now.through)
