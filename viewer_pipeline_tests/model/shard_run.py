"""The steps of one run in the model of shards (shards.py): drain, commit, settle, clear `hold`. As in the code:

A step is a call, with all that the run does until its next one. So the slot map is read with the ledger, and what a
sweep reads at its beginning with the home slot.
"""

from __future__ import annotations

from viewer_pipeline_tests.model.shard_settling import is_other_history, settle_flush, settling_steps
from viewer_pipeline_tests.model.shard_values import (
    ENDED,
    NO_HOLD,
    Batch,
    Copy,
    Flush,
    Hold,
    Marker,
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

NEVER = -1  # a timeline, and a process


def steps(world: World, setting: Setting, run: Run, rules: Rules) -> Steps:
    """Yield (label, world, run) for each call that the run can make next."""
    yield from _steps(world, setting, run, rules)
    if isinstance(run.settler, Settling):
        for label, after, outcome in settling_steps(world, setting, run, run.settler, rules):
            yield label, after, _after_settler(setting, run._replace(settler=outcome), rules)


def _steps(world: World, setting: Setting, run: Run, rules: Rules) -> Steps:  # noqa: C901, PLR0912 - a table of states
    match run.at:
        case "read ledger":
            yield "reads the ledger", world, _read_ledger(world, run)
        case "read home":
            yield "reads the floor", world, _read_home(world, setting, run, rules)
        case "drain":
            yield from _drain(world, setting, run, rules)
        case "values":  # R12 broken
            yield "reads counters", world, _drained(world, setting, run, rules)
        case "read again":
            yield "reads the ledger again", world, _read_again(world, setting, run, rules)
        case "settle before":
            yield from _settle_before(world, setting, run, rules)
        case "wait":
            yield _wait(world, setting, run, rules)
        case "store floor":
            after = world._replace(floor=max(world.floor, run.floor), prepared=run.timeline)
            yield "stores the floor", after, _begin_to_read(after, setting, run, rules)
        case "read slots":
            yield "reads the slots", world, _after_slots(setting, run._replace(complete=_sees_all(world, setting, run)))
        case "record holds":
            holds = tuple(new or hold for new, hold in zip(_new_holds(run), world.holds, strict=True))
            yield "records holds", world._replace(holds=holds), _after_drain(setting, run)
        case "split":
            yield "reads counted views", world, _split(world, setting, run)
        case "commit":
            yield _commit(world, setting, run, rules)
        case "totals":  # R1 broken
            assert run.committed is not None
            yield "adds to totals", _added(world, run.committed), _hand_over(setting, run, rules)
        case "read holds":
            clears = run.complete and (world.holds == run.holds or "R16-end" in rules)
            due = tuple(n for n, hold in enumerate(run.holds) if hold)
            moved = run._replace(at="clear", pending=due) if clears and due else ENDED
            yield "reads holds" if moved != ENDED else "reads holds: others", world, moved
        case "clear":
            for number in run.pending:  # in any order: all nodes work at the same time
                yield _clear(world, run, number, rules)


# --- drain ---


def _read_ledger(world: World, run: Run) -> Run:
    none = (None,) * len(world.shards)
    nowhere = (NEVER,) * len(world.shards)
    run = run._replace(at="read home", after=world.postgres.newest, timeline=world.timeline, targets=_targets(world))
    return run._replace(known=none, read=none, seen=nowhere, servers=nowhere)


def _targets(world: World) -> tuple[bool, ...]:
    return tuple(shard.phase == "target" for shard in world.shards)


def _read_home(world: World, setting: Setting, run: Run, rules: Rules) -> Run:
    run = run._replace(floor=world.floor)
    if world.prepared == run.timeline or "R6-floor" in rules:
        return _begin_to_read(world, setting, run, rules)
    return _begin_round(world, setting, run._replace(prepares=True), tuple(range(len(world.shards))), rules)


def _begin_to_read(world: World, setting: Setting, run: Run, rules: Rules) -> Run:
    """Begin the drain proper. A sweep reads what is held, asks every node for its slots, and lists the keys."""
    none = (None,) * len(world.shards)
    run = run._replace(prepares=False, known=none, read=none, holds=none, left_out=(), began=run.timeline, at="drain")
    run = run._replace(pending=run.shards, settling=None)
    if not _sweeps(run):
        return run
    holds = ((0, NO_HOLD),) * len(world.holds) if "R16-end" in rules else world.holds
    run = run._replace(complete=_sees_all(world, setting, run), holds=holds, targets=_targets(world))
    if not (setting.traced or any(run.holds)):  # nothing is to be cleared
        run = run._replace(complete=False)
    if not setting.wait:
        return run
    processes = zip(run.servers, (shard.process for shard in world.shards), strict=True)
    return run._replace(servers=tuple(now if read == NEVER else read for read, now in processes))


def _sees_all(world: World, setting: Setting, run: Run) -> bool:
    """Whether all slots are where a sweep expects them, and do not migrate, and all its connections last."""
    pairs = zip(run.servers, world.shards, strict=True)
    is_broken = setting.wait and any(process not in (NEVER, shard.process) for process, shard in pairs)
    is_calm = all(shard.phase != "migrates" for shard in world.shards)
    return is_calm and run.targets == _targets(world) and not is_broken


def _sweeps(run: Run) -> bool:
    return len(run.shards) == len(run.known)


def _begin_round(world: World, setting: Setting, run: Run, pending: tuple[int, ...], rules: Rules) -> Run:
    """Read these shards, those that the run has left out excepted."""
    none = (None,) * len(world.shards)
    keep = (n not in pending for n in range(len(world.shards)))
    known = tuple(marker if kept else None for marker, kept in zip(run.known, keep, strict=True))
    read = tuple(None if n in pending else views for n, views in enumerate(run.read))
    run = run._replace(known=known or none, read=read or none, pending=pending, at="drain", settling=None)
    return run if pending else _after_round(world, setting, run, (), rules)


def _drain(world: World, setting: Setting, run: Run, rules: Rules) -> Steps:
    number = _next(run)
    shard, marker = world.shards[number], world.shards[number].marker
    if not _replies(world, setting, run, number):
        left_out = run._replace(left_out=(*run.left_out, number))
        yield f"drains {number}: redirected", world, _after_shard(world, setting, left_out, rules)
        return
    epochs = world.epochs
    if marker is None:
        epochs += 1
        number_of_batches, of = (len(run.after.batches), run.after.timeline) if run.after else (0, 0)
        marker = Marker(run.last, number_of_batches, epochs, run.timeline, of)
        if run.last and "R16" not in rules:
            marker = marker._replace(hold=epochs)
    elif "R17" not in rules and (marker.timeline == run.seen[number] or "R17-any" in rules):
        marker = marker._replace(timeline=run.timeline)
    after = with_shard(world._replace(epochs=epochs), number, marker)
    run = run._replace(known=put(run.known, number, marker))
    if setting.wait:
        run = run._replace(servers=put(run.servers, number, shard.process))
    if "R12" in rules and not run.prepares:
        yield f"drains {number}", after, run._replace(at="values")
    else:
        yield f"drains {number}", after, _drained(after, setting, run, rules)


def _next(run: Run) -> int:
    return next(n for n in run.pending if run.read[n] is None and n not in run.left_out)


def _replies(world: World, setting: Setting, run: Run, number: int) -> bool:
    """Whether the node at which the run expects a shard accepts the script, over a connection that did not break."""
    shard = world.shards[number]
    if shard.phase == "migrates" and not _all_at_source(world, setting, number, run):
        return False
    is_connected = not setting.wait or run.servers[number] in (NEVER, shard.process)
    return is_connected and run.targets[number] == (shard.phase == "target")


def _all_at_source(world: World, setting: Setting, number: int, run: Run) -> bool:
    """Whether Redis accepts a script with these keys at the source of a migration: all exist there."""
    shard, vods = world.shards[number], [] if run.prepares else setting.vods(number)
    exist = shard.marker is not None and all(world.counters[vod] for vod in vods)
    return exist and not any(shard.at_target(key) for key in (0, *map(setting.key, vods)))


def _drained(world: World, setting: Setting, run: Run, rules: Rules) -> Run:
    number = _next(run)
    read = () if run.prepares else tuple(world.counters[vod] for vod in setting.vods(number))
    return _after_shard(world, setting, run._replace(read=put(run.read, number, read), at="drain"), rules)


def _after_shard(world: World, setting: Setting, run: Run, rules: Rules) -> Run:
    if any(run.read[n] is None and n not in run.left_out for n in run.pending):
        return run
    return _after_round(world, setting, run, run.pending, rules)


def _after_round(world: World, setting: Setting, run: Run, drained: tuple[int, ...], rules: Rules) -> Run:
    """Compare the markers that were read with the end of the ledger."""
    markers = [marker for n in drained if (marker := run.known[n])]
    is_other = "R17" not in rules and any(marker.timeline != run.timeline for marker in markers)
    if is_other or ("R6" not in rules and any(marker.seq > run.last for marker in markers)):
        return run._replace(at="read again")
    if "R3-settle-first" in rules:
        return _after_read(world, setting, run, rules)
    return run._replace(at="settle before")


def _read_again(world: World, setting: Setting, run: Run, rules: Rules) -> Run:
    newest = world.postgres.newest
    others = {n: m.timeline for n in run.pending if (m := run.known[n]) and m.timeline != run.timeline}
    if "R17" in rules:
        others = {}
    if not others and (newest.seq if newest else 0) <= run.last:  # PostgreSQL was rolled back
        return run._replace(at="settle before")
    seen = tuple(others.get(n, at) for n, at in enumerate(run.seen))
    run = run._replace(seen=seen, after=newest, timeline=world.timeline)
    order = range(len(world.shards)) if run.prepares else run.shards
    return _begin_round(world, setting, run, tuple(n for n in order if n not in run.left_out), rules)


def _settle_before(world: World, setting: Setting, run: Run, rules: Rules) -> Steps:
    settling = run.settling
    if settling is None:
        if any(_is_other_history(world.postgres, run, n) for n in run.pending) and "R20" not in rules:
            yield "lists batches: another history", world, ENDED
            return
        known = tuple(_with_missing(world.postgres, run, n) for n in range(len(run.known)))
        run = run._replace(known=known)
        behind = tuple(
            marker if marker and n in run.pending and marker.seq <= run.last else None for n, marker in enumerate(known)
        )
        left = tuple(n for n, marker in enumerate(behind) if marker)
        settling = Settling("list", behind, run.last, left)
    for label, after, outcome in settling_steps(world, setting, run, settling, rules):
        if outcome == "failed":
            yield label, after, ENDED
            continue
        moved = run._replace(settling=outcome)
        if label.endswith((": redirected", ": followed")) and run.targets != _targets(after):  # it has a new map
            moved = moved._replace(targets=_targets(after), complete=False)
        if outcome.at == "done":
            moved = _after_settling(after, setting, moved, outcome, rules)
        yield label.removesuffix(": followed"), after, moved


def _is_other_history(postgres: Postgres, run: Run, number: int) -> bool:
    marker = run.known[number]
    return marker is not None and not _is_at_the_end(run, marker) and is_other_history(postgres, marker)


def _is_at_the_end(run: Run, marker: Marker) -> bool:
    of = run.after.timeline if run.after else 0
    return marker.seq == run.last and (not marker.seq or marker.of == of) and not any(marker.missing)


def _with_missing(postgres: Postgres, run: Run, number: int) -> Marker | None:
    """Return the marker with the flushes up to its own that the ledger lacks."""
    marker = run.known[number]
    if marker is None or number not in run.pending:
        return marker
    if marker.seq > run.last:
        return marker._replace(missing=(run.last, marker.seq))
    newest = max((flush.seq for flush in postgres.ledger if flush.seq <= marker.seq), default=0)
    if newest and newest != marker.seq and not _is_at_the_end(run, marker):
        return marker._replace(missing=(newest, marker.seq))
    return marker


def _after_settling(world: World, setting: Setting, run: Run, settling: Settling, rules: Rules) -> Run:
    """Keep what was read where the ledger had nothing beyond the marker; read again where batches were settled."""
    run = run._replace(left_out=(*run.left_out, *settling.unreached), settling=None)
    for number in settling.unreached:
        run = run._replace(known=put(run.known, number, None), read=put(run.read, number, None))
    known = zip(settling.known, run.known, strict=True)
    again = tuple(n for n, (moved, marker) in enumerate(known) if moved and moved != marker)
    return _begin_round(world, setting, run, again, rules) if again else _after_read(world, setting, run, rules)


def _after_read(world: World, setting: Setting, run: Run, rules: Rules) -> Run:
    """All shards are read. If PostgreSQL was rolled back meanwhile, other shards may be ahead of the ledger."""
    if run.prepares:
        run = run._replace(floor=max([run.floor, *(marker.seq for marker in run.known if marker)]))
    if not run.prepares and run.timeline != run.began and "R17" not in rules:
        return Run(run.shards, run.cut, tries=run.tries)
    order = range(len(world.shards)) if run.prepares else run.shards
    replied = tuple(n for n in order if run.read[n] is not None)
    if setting.wait and replied:
        return run._replace(at="wait", pending=replied)
    return _after_waits(world, setting, run, rules)


def _wait(world: World, setting: Setting, run: Run, rules: Rules) -> tuple[str, World, Run]:
    """On the connection that read, wait until a replica has all that this server has."""
    number, *others = run.pending
    run, label = run._replace(pending=tuple(others)), f"waits for {number}"
    if world.shards[number].process != run.servers[number]:
        run = run._replace(known=put(run.known, number, None), read=put(run.read, number, None))
        run, label = run._replace(left_out=(*run.left_out, number)), f"{label}: the connection broke"
    elif "R7" not in rules and world.copy is not None and world.copy.shard == number:
        world = world._replace(copy=copy_of(world, setting, number))
    return label, world, run if others else _after_waits(world, setting, run, rules)


def _after_waits(world: World, setting: Setting, run: Run, rules: Rules) -> Run:
    if run.prepares:
        return _begin_to_read(world, setting, run, rules) if run.left_out else run._replace(at="store floor")
    rows = list[Row]()
    for number, views in enumerate(run.read):
        if (marker := run.known[number]) and views is not None:
            epoch = next(m.epoch for m in run.known if m) if "R14" in rules else marker.epoch
            rows += [Row(number, vod, n, epoch) for vod, n in zip(setting.vods(number), views, strict=True) if n]
    base = max([run.last, run.floor, *(marker.seq for marker in run.known if marker)])
    if "R6" in rules:
        base = run.last
    run = run._replace(rows=tuple(rows), base=base, read=(None,) * len(run.read), pending=(), seen=())
    run = run._replace(complete=_sweeps(run) and run.complete and not run.left_out, left_out=())
    return run._replace(at="read slots") if run.complete else _after_slots(setting, run)


def _after_slots(setting: Setting, run: Run) -> Run:
    run = run._replace(servers=(), targets=())
    return run._replace(at="record holds") if any(_new_holds(run)) else _after_drain(setting, run)


def _new_holds(run: Run) -> tuple[Hold, ...]:
    """Return what is to be recorded: the `hold` of markers that the run has seen, unless it was recorded before."""
    seen = ((m.epoch, m.hold) if m and m.hold != NO_HOLD else None for m in run.known)
    return tuple(new if new != hold else None for new, hold in zip(seen, run.holds, strict=True))


def _after_drain(setting: Setting, run: Run) -> Run:
    if not run.tries:
        return ENDED
    markers = (run.known[row.shard] for row in run.rows)
    if any(marker and marker.hold != NO_HOLD for marker in markers):
        return run._replace(at="split")
    return _after_flush(setting, run)


def _split(world: World, setting: Setting, run: Run) -> Run:
    """Hold of each counter whose marker has `hold` as many views as were ever counted; commit new views first."""
    stored, rows = world.postgres.stored, list[Row]()
    for row in run.rows:
        marker = run.known[row.shard]
        held = min(row.delta, stored[row.vod]) if marker and marker.hold != NO_HOLD else 0
        rows += (row._replace(delta=row.delta - held), row._replace(delta=held, held=True))
    return _after_flush(
        setting, run._replace(rows=tuple(sorted((r for r in rows if r.delta), key=lambda row: row.held)))
    )


# --- commit ---


def _after_flush(setting: Setting, run: Run) -> Run:
    """Commit the next rows; after the last ones, wait until all is settled, then store how far the sweep has come."""
    if run.rows:
        return run._replace(at="commit")
    if run.settler == "failed":
        return ENDED
    if run.settler:
        return run._replace(at="wait for settler")
    is_read = any(run.holds) or (setting.traced and not run.complete)
    return run._replace(at="read holds") if _sweeps(run) and is_read else ENDED


def _commit(world: World, setting: Setting, run: Run, rules: Rules) -> tuple[str, World, Run]:
    newest = world.postgres.newest
    other_timeline = world.timeline != run.timeline and "R17" not in rules
    newer = (newest.seq if newest else 0) > run.base or newest != run.after
    if other_timeline or (newer and "R3-unique" not in rules):
        return "commits: superseded", world, _superseded(run._replace(rows=()))
    part = [row for row in run.rows if row.held == run.rows[0].held][: run.cut]
    seq = max(run.base, newest.seq if newest and "R3-unique" in rules else 0) + 1
    batches = tuple(
        Batch(seq, at, row.shard, row.vod, row.delta, row.epoch, world.timeline) for at, row in enumerate(part, 1)
    )
    flush = Flush(seq, world.timeline, part[0].held, batches)
    moved = run._replace(rows=run.rows[len(part) :], base=seq, after=flush, committed=flush)
    after = world._replace(postgres=world.postgres._replace(ledger=(*world.postgres.ledger, flush)))
    if "R1" in rules:
        return "commits", after, moved._replace(at="totals")
    return "commits", _added(after, flush), _hand_over(setting, moved, rules)


def _superseded(run: Run) -> Run:
    if run.settler == "failed":
        return ENDED
    if run.settler:
        return run._replace(at="superseded")
    return Run(run.shards, run.cut, tries=run.tries - 1)


def _hand_over(setting: Setting, run: Run, rules: Rules) -> Run:
    """Give the flush to the settler once the flush before it is settled."""
    if run.settler == "failed":
        return ENDED
    if run.settler or run.committed is None:
        return run._replace(at="wait for settler")
    settling = settle_flush(run.known, run.committed, waits=setting.standby and "R18" not in rules)
    run = run._replace(committed=None)
    return _after_flush(setting, run._replace(settler=None if settling.at == "done" else settling))


def _after_settler(setting: Setting, run: Run, rules: Rules) -> Run:
    """Continue, if the run waits for its settler."""
    if isinstance(run.settler, Settling):
        if run.settler.at != "done":
            return run
        known = zip(run.settler.known, run.known, strict=True)
        gone = run.settler.unreached
        moved = tuple(None if n in gone else new or old for n, (new, old) in enumerate(known))
        run = run._replace(settler=None, known=moved)
    if run.at == "superseded":
        return _superseded(run)
    if run.at == "wait for settler":
        return _hand_over(setting, run, rules) if run.committed else _after_flush(setting, run)
    return run


def _added(world: World, flush: Flush) -> World:
    postgres = world.postgres
    views = postgres.held if flush.held else postgres.totals
    for batch in flush.batches:
        views = put(views, batch.vod, views[batch.vod] + batch.delta)
    return world._replace(postgres=postgres._replace(held=views) if flush.held else postgres._replace(totals=views))


def _clear(world: World, run: Run, number: int, rules: Rules) -> tuple[str, World, Run]:
    """Remove `hold` of a marker that was recorded with it when the run began, if it still has that."""
    others = tuple(n for n in run.pending if n != number)
    marker = world.shards[number].marker
    if marker and ((marker.epoch, marker.hold) == run.holds[number] or "R16-end" in rules):
        world = with_shard(world, number, marker._replace(hold=NO_HOLD))
    if others:
        return f"clears hold of {number}", world, run._replace(pending=others)
    kept = tuple(None if mine else hold for mine, hold in zip(run.holds, world.holds, strict=True))
    return f"clears hold of {number}", world._replace(holds=kept), ENDED


def copy_of(world: World, setting: Setting, number: int) -> Copy:
    """Return a copy of a shard."""
    shard, vods = world.shards[number], setting.vods(number)
    counters, incremented = ([views[vod] for vod in vods] for views in (world.counters, world.incremented))
    return Copy(number, shard.marker, shard.lineage, tuple(counters), tuple(incremented))
