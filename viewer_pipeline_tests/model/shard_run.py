"""The steps of one run in the model of shards (shards.py): drain shard by shard, commit, settle, clear `hold`."""

from __future__ import annotations

from collections.abc import Iterator

from viewer_pipeline_tests.model.shard_values import (
    ENDED,
    NO_HOLD,
    Batch,
    Copy,
    Flush,
    Hold,
    Marker,
    Outcome,
    Postgres,
    Row,
    Rules,
    Run,
    Setting,
    Settling,
    Steps,
    World,
    put,
    with_shard,
)


def steps(world: World, setting: Setting, run: Run, rules: Rules) -> Steps:  # noqa: C901, PLR0912 - a table of states
    """Yield (label, world, run) for each call that the run can make next."""
    match run.at:
        case "read ledger":
            none = (None,) * len(world.shards)
            moved = run._replace(at="read home", after=world.postgres.newest, timeline=world.timeline)
            yield "reads the ledger", world, moved._replace(known=none, settling=none)
        case "read home":
            yield "reads the floor", world, _read_home(world, run, rules)
        case "drain":
            yield from _drain(world, setting, run, rules)
        case "values":  # R12 broken
            yield "reads counters", world, _drained(world, setting, run, rules)
        case "settle before":
            yield from _settle_before(world, setting, run, rules)
        case "wait":
            yield _wait(world, setting, run, rules)
        case "store floor":
            floor = max(world.floor, run.floor)
            after = world._replace(floor=floor, prepared=run.timeline) if run.complete else world
            moved = run._replace(at="drain", prepares=False, complete=True, holds=_recorded(world, rules))
            yield "stores the floor", after, moved
        case "record holds":
            yield "records holds", world._replace(holds=_holds(world, run)), _after_holds(run)
        case "split":
            yield "reads counted views", world, _split(world, run)
        case "commit":
            yield _commit(world, setting, run, rules)
        case "totals":  # R1 broken
            assert run.committed is not None
            yield "adds to totals", _added(world, run.committed), run._replace(at="settle", committed=None)
        case "standby":  # where PostgreSQL was rolled back, the connection broke
            moved = run._replace(at="settle") if world.timeline == run.timeline else ENDED
            yield "waits for a standby", _replicated(world) if moved != ENDED else world, moved
        case "settle":
            yield from _settle_own(world, setting, run, rules)
        case "clear":
            yield _clear(world, run, rules)


def _again(run: Run, **changes: int) -> Run:
    fresh = Run(run.shards, run.cut, floor=run.floor, tries=run.tries)
    return fresh._replace(**changes)  # type: ignore[arg-type]  # mypy checks a mapping against the first field


# --- drain ---


def _order(world: World, run: Run) -> tuple[int, ...]:
    return tuple(range(len(world.shards))) if run.prepares else run.shards


def _read_home(world: World, run: Run, rules: Rules) -> Run:
    floor = max(run.floor, world.floor)
    base = run.last if "R6" in rules else max(run.last, floor)
    prepares = world.prepared != run.timeline and "R6-floor" not in rules
    return run._replace(at="drain", floor=floor, base=base, prepares=prepares, holds=_recorded(world, rules))


def _recorded(world: World, rules: Rules) -> tuple[Hold, ...]:
    return ((0, NO_HOLD),) * len(world.holds) if "R16-end" in rules else world.holds


def _drain(world: World, setting: Setting, run: Run, rules: Rules) -> Steps:
    number = _order(world, run)[run.position]
    shard, marker = world.shards[number], world.shards[number].marker
    vods = [] if run.prepares else setting.vods(number)
    if shard.phase == "migrates" and not _all_at_source(world, setting, number, vods):
        yield f"drains {number}: redirected", world, _leave_out(world, run, number)
        return
    epochs = world.epochs
    if marker is None:
        epochs += 1
        number_of_batches, of = (len(run.after.batches), run.after.timeline) if run.after else (0, 0)
        marker = Marker(run.last, number_of_batches, epochs, run.timeline, of)
        if run.last and "R16" not in rules:
            marker = marker._replace(hold=(run.last, 0))
    elif marker.timeline != run.timeline and "R17" not in rules:
        if marker.timeline != run.instead and "R17-any" not in rules:
            yield f"drains {number}: another timeline", world, _again(run, instead=marker.timeline)
            return
        marker = marker._replace(timeline=run.timeline)
    after = with_shard(world._replace(epochs=epochs), number, marker)
    if marker.seq > run.base and "R6" not in rules:
        yield f"drains {number}: ahead", after, _again(run, floor=marker.seq)
        return
    run = run._replace(known=put(run.known, number, marker), server=(shard.process, shard.at_target(0)))
    if "R12" in rules and not run.prepares:
        yield f"drains {number}", after, run._replace(at="values")
    else:
        yield f"drains {number}", after, _drained(after, setting, run, rules)


def _all_at_source(world: World, setting: Setting, number: int, vods: list[int]) -> bool:
    """Whether Redis accepts a script with these keys at the source of a migration: all exist there."""
    shard = world.shards[number]
    exist = shard.marker is not None and all(world.counters[vod] for vod in vods)
    return exist and not any(shard.at_target(key) for key in (0, *map(setting.key, vods)))


def _drained(world: World, setting: Setting, run: Run, rules: Rules) -> Run:
    number = _order(world, run)[run.position]
    known = run.known[number]
    assert known is not None
    read = () if run.prepares else tuple(world.counters[vod] for vod in setting.vods(number))
    run = run._replace(read=read, at="settle before")
    if "R3-settle-first" in rules:
        return _accept(world, setting, run, number, rules)
    return run._replace(settling=put(run.settling, number, Settling("list", known, run.last)))


def _settle_before(world: World, setting: Setting, run: Run, rules: Rules) -> Steps:
    number = _order(world, run)[run.position]
    for label, after, outcome in _settling_steps(world, setting, run, number, rules):
        if outcome == "failed":
            yield label, after, ENDED
        elif outcome == "unreached":
            yield label, after, _leave_out(world, run, number)
        elif isinstance(outcome, Settling):
            yield label, after, run._replace(settling=put(run.settling, number, outcome))
        elif outcome == run.known[number]:
            yield label, after, _accept(world, setting, run, number, rules)
        else:  # batches were settled: read it again
            settling_left = put(run.settling, number, None)
            yield label, after, run._replace(at="drain", read=(), settling=settling_left)


def _accept(world: World, setting: Setting, run: Run, number: int, rules: Rules) -> Run:
    """Keep what was read together with a marker beyond which the ledger has nothing for this shard."""
    known, settling = run.known[number], put(run.settling, number, None)
    assert known is not None
    if run.prepares:
        return _advance(world, run._replace(settling=settling, known=put(run.known, number, None)))
    epoch = next(marker.epoch for marker in run.known if marker) if "R14" in rules else known.epoch
    rows = (Row(number, vod, n, epoch) for vod, n in zip(setting.vods(number), run.read, strict=True) if n)
    run = run._replace(rows=(*run.rows, *rows), settling=settling, read=())
    return run._replace(at="wait") if setting.wait else _advance(world, run)


def _leave_out(world: World, run: Run, number: int) -> Run:
    none, rows = put(run.known, number, None), tuple(row for row in run.rows if row.shard != number)
    settling = put(run.settling, number, None)
    return _advance(world, run._replace(known=none, rows=rows, settling=settling, read=(), complete=False))


def _wait(world: World, setting: Setting, run: Run, rules: Rules) -> tuple[str, World, Run]:
    """On the connection that read, wait until a replica has all that this server has."""
    number = run.shards[run.position]
    shard = world.shards[number]
    if (shard.process, shard.at_target(0)) != run.server or shard.phase == "migrates":
        return f"waits for {number}: the connection broke", world, _leave_out(world, run, number)
    if "R7" not in rules and world.copy is not None and world.copy.shard == number:
        world = world._replace(copy=copy_of(world, setting, number))
    return f"waits for {number}", world, _advance(world, run)


def _advance(world: World, run: Run) -> Run:
    """Go to the next shard; after the last one, to the commit."""
    if run.position + 1 < len(_order(world, run)):
        return run._replace(at="drain", position=run.position + 1)
    run = run._replace(position=0, server=(0, False))
    if run.prepares:
        return run._replace(at="store floor")
    return run._replace(at="record holds") if _holds(world, run) != world.holds else _after_holds(run)


def _holds(world: World, run: Run) -> tuple[Hold, ...]:
    """Return the holds that are recorded, with those of the markers that the run has seen."""
    pairs = zip(world.holds, run.known, strict=True)
    return tuple((m.epoch, m.hold) if m and m.hold != NO_HOLD else hold for hold, m in pairs)


def _after_holds(run: Run) -> Run:
    if any(marker and marker.hold != NO_HOLD for marker in run.known) and run.rows:
        return run._replace(at="split")
    return _commit_rest(run)


def _split(world: World, run: Run) -> Run:
    """Hold of each counter whose marker has `hold` as many views as were ever counted; commit new views first."""
    stored, rows = world.postgres.stored, list[Row]()
    for row in run.rows:
        marker = run.known[row.shard]
        held = min(row.delta, stored[row.vod]) if marker and marker.hold != NO_HOLD else 0
        rows += (row._replace(delta=row.delta - held), row._replace(delta=held, held=True))
    return _commit_rest(run._replace(rows=tuple(sorted((r for r in rows if r.delta), key=lambda row: row.held))))


# --- commit ---


def _commit_rest(run: Run) -> Run:
    if run.rows:
        return run._replace(at="commit")
    sweeps = run.complete and len(run.shards) == len(run.holds)
    return run._replace(at="clear") if sweeps and any(run.holds) else ENDED


def _commit(world: World, setting: Setting, run: Run, rules: Rules) -> tuple[str, World, Run]:
    newest = world.postgres.newest
    other_timeline = world.timeline != run.timeline and "R17" not in rules
    newer = (newest.seq if newest else 0) > run.base or (run.after is not None and newest != run.after)
    if other_timeline or (newer and "R3-unique" not in rules):
        return "is superseded", world, _again(run, tries=run.tries - 1) if run.tries > 1 else ENDED
    part = [row for row in run.rows if row.held == run.rows[0].held][: run.cut]
    seq = max(run.base, newest.seq if newest and "R3-unique" in rules else 0) + 1
    batches = tuple(
        Batch(seq, at, row.shard, row.vod, row.delta, row.epoch, world.timeline) for at, row in enumerate(part, 1)
    )
    flush = Flush(seq, world.timeline, part[0].held, batches)
    settling = tuple(
        Settling("settle", known, seq, due)
        if known and (due := tuple(b for b in batches if b.shard == number))
        else None
        for number, known in enumerate(run.known)
    )
    moved = run._replace(rows=run.rows[len(part) :], base=seq, after=flush, settling=settling)
    after = world._replace(postgres=world.postgres._replace(ledger=(*world.postgres.ledger, flush)))
    if "R1" in rules:
        return "commits", after, moved._replace(at="totals", committed=flush)
    waits = setting.standby and "R18" not in rules
    return "commits", _added(after, flush), moved._replace(at="standby" if waits else "settle")


def _added(world: World, flush: Flush) -> World:
    postgres = world.postgres
    views = postgres.held if flush.held else postgres.totals
    for batch in flush.batches:
        views = put(views, batch.vod, views[batch.vod] + batch.delta)
    return world._replace(postgres=postgres._replace(held=views) if flush.held else postgres._replace(totals=views))


def _replicated(world: World) -> World:
    return world._replace(dump=world.postgres)


# --- settle ---


def beyond(postgres: Postgres, number: int, marker: Marker, through: int = 10**9) -> tuple[Batch, ...]:
    """Return the batches of a shard that the ledger has beyond its marker, up to and including flush `through`."""
    return tuple(
        batch
        for flush in postgres.ledger
        if flush.seq <= through
        for batch in flush.batches
        if batch.shard == number and batch.at > marker.at
    )


def _settle_own(world: World, setting: Setting, run: Run, rules: Rules) -> Steps:
    """Settle the shards of the flush, in any order: one thread for each node."""
    for number, settling in enumerate(run.settling):
        if settling is None:
            continue
        for label, after, outcome in _settling_steps(world, setting, run, number, rules):
            if outcome == "failed":
                yield label, after, ENDED
            elif isinstance(outcome, Settling):
                yield label, after, run._replace(settling=put(run.settling, number, outcome))
            elif isinstance(outcome, Marker):
                settled = put(run.settling, number, None)
                moved = run._replace(settling=settled, known=put(run.known, number, outcome))
                yield label, after, moved if any(settled) else _commit_rest(moved)


def _settling_steps(
    world: World, setting: Setting, run: Run, number: int, rules: Rules
) -> Iterator[tuple[str, World, Outcome]]:
    now = run.settling[number]
    assert now is not None
    marker = world.shards[number].marker
    if now.at == "list":
        due = beyond(world.postgres, number, now.known, now.through)
        label = f"lists batches of {number}"
        if not due:
            yield label, world, now.known
        elif "R17" not in rules and world.timeline != run.timeline:
            yield label, world, "failed"
        else:
            after = _replicated(world) if setting.standby and "R18-earlier" not in rules else world
            yield label, after, now._replace(at="settle", due=due)
    elif now.at == "read marker":
        gone = marker is None or ("R17" not in rules and marker.timeline != run.timeline)
        outcome: Outcome = "failed" if gone or marker is None else Settling("list", marker, now.through)
        yield f"reads the marker of {number}", world, outcome
    elif now.at == "move":  # R4 broken
        assert marker is not None
        batch = now.due[0]
        moved = marker._replace(seq=batch.seq, batch=batch.number, of=batch.timeline)
        yield f"moves the marker of {number}", with_shard(world, number, moved), _sent(now)
    else:
        yield from _send(world, setting, run, now, rules)


def _send(
    world: World, setting: Setting, run: Run, now: Settling, rules: Rules
) -> Iterator[tuple[str, World, Outcome]]:
    batch, label = now.due[0], f"settles {now.due[0].vod}"
    if not _served(world, setting, batch):
        yield f"{label}: redirected", world, "unreached"
        return
    refused, after = _settle(world, batch, now.known, run.timeline, rules)
    if refused:
        yield f"{label}: refused", after, now._replace(at="read marker", due=())
        return
    if "R4" in rules and after != world:
        yield label, after, now._replace(at="move")
        return
    yield label, after, _sent(now, after.shards[batch.shard].marker)
    if world.left.resent and _served(after, setting, batch):
        twice = _settle(after, batch, now.known, run.timeline, rules)[1]
        left = world.left._replace(resent=world.left.resent - 1)
        yield f"{label} twice", twice._replace(left=left), _sent(now, twice.shards[batch.shard].marker)
    if "R5" in rules and len(now.due) > 1:
        yield f"{label}: lost", world, _sent(now)


def _served(world: World, setting: Setting, batch: Batch) -> bool:
    """Whether a node accepts the settling script: while a shard migrates, one that has both of its keys."""
    shard = world.shards[batch.shard]
    if shard.phase != "migrates":
        return True
    exist = shard.marker is not None and world.counters[batch.vod] > 0
    return exist and shard.at_target(0) == shard.at_target(setting.key(batch.vod))


def _settle(world: World, batch: Batch, known: Marker, timeline: int, rules: Rules) -> tuple[bool, World]:
    """Run the settling script; return whether it is refused, and the world after it."""
    marker = world.shards[batch.shard].marker
    if marker is None or marker.epoch != known.epoch:
        return True, world
    if "R4-unmarked" not in rules:
        if batch.at <= marker.at:
            return False, world
        if (marker.at != known.at and "R5" not in rules) or (marker.timeline != timeline and "R17" not in rules):
            return True, world
    counters = world.counters
    if batch.epoch == marker.epoch:
        left = 0 if "R2" in rules else max(counters[batch.vod] - batch.delta, 0)
        counters = put(counters, batch.vod, left)
    elif "R16" not in rules:  # the views that are skipped may be in these counters
        marker = marker._replace(hold=batch.at)
    if "R4" not in rules and batch.at > marker.at:
        marker = marker._replace(seq=batch.seq, batch=batch.number, of=batch.timeline)
    return False, with_shard(world._replace(counters=counters), batch.shard, marker)


def _sent(now: Settling, replied: Marker | None = None) -> Settling | Marker:
    """Continue with the next batch; after the last one, at the marker of the reply."""
    batch = now.due[0]
    known = (replied or now.known)._replace(seq=batch.seq, batch=batch.number, of=batch.timeline)
    return now._replace(known=known, due=now.due[1:], at="settle") if len(now.due) > 1 else replied or known


def _clear(world: World, run: Run, rules: Rules) -> tuple[str, World, Run]:
    """Remove `hold` of the next marker that was recorded with it when the run began, if it still has that."""
    due = [number for number, hold in enumerate(run.holds) if hold]
    if world.holds != run.holds and "R16-end" not in rules:
        return "clears nothing", world, ENDED
    number = due[run.position]
    marker = world.shards[number].marker
    if marker and ((marker.epoch, marker.hold) == run.holds[number] or "R16-end" in rules):
        world = with_shard(world, number, marker._replace(hold=NO_HOLD))
    done = number == due[-1]
    if done:
        world = world._replace(holds=tuple(None if n in due else hold for n, hold in enumerate(world.holds)))
    return f"clears hold of {number}", world, ENDED if done else run._replace(position=run.position + 1)


def copy_of(world: World, setting: Setting, number: int) -> Copy:
    """Return a copy of a shard."""
    shard, vods = world.shards[number], setting.vods(number)
    counters, incremented = ([views[vod] for vod in vods] for views in (world.counters, world.incremented))
    return Copy(number, shard.marker, shard.lineage, tuple(counters), tuple(incremented))
