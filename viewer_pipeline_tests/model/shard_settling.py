"""Settling in the model of shards (shards.py): of each shard in order, of several in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from viewer_pipeline_tests.model.shard_values import (
    Batch,
    Flush,
    Marker,
    Outcome,
    Postgres,
    Rules,
    Run,
    Setting,
    Settling,
    World,
    put,
    with_shard,
)

NEVER = -1


def beyond(postgres: Postgres, number: int, marker: Marker, through: int = 10**9) -> tuple[Batch, ...]:
    """Return the batches of a shard that the ledger has beyond its marker, up to and including flush `through`."""
    return tuple(
        batch
        for flush in postgres.ledger
        if flush.seq <= through
        for batch in flush.batches
        if batch.shard == number and batch.at > marker.at
    )


def is_other_history(postgres: Postgres, marker: Marker) -> bool:
    """Whether the ledger has a flush that it cannot have if it alone has settled this shard (R20)."""
    after, through = marker.missing
    return any(
        (flush.seq == marker.seq and flush.timeline != marker.of) or after < flush.seq <= through
        for flush in postgres.ledger
    )


def settle_flush(known: tuple[Marker | None, ...], flush: Flush, *, waits: bool) -> Settling:
    """Return what settles a flush that was just committed: in the shards where everything before is settled."""
    due = [batch for batch in flush.batches if known[batch.shard]]
    concerned = {batch.shard for batch in due}
    markers = tuple(marker if n in concerned else None for n, marker in enumerate(known))
    settling = Settling("standby" if waits else "settle", markers, flush.seq, own=True)
    settling = _next_round(settling, due)
    return settling if settling.now or waits else settling._replace(at="done")


def _next_round(settling: Settling, due: Sequence[Batch]) -> Settling:
    """Take the first batch of each shard: the next one is sent once all these are settled."""
    shards = dict.fromkeys(batch.shard for batch in due)
    now = tuple(next(batch for batch in due if batch.shard == shard) for shard in shards)
    return settling._replace(now=now, due=tuple(batch for batch in due if batch not in now))


def settling_steps(
    world: World, setting: Setting, run: Run, now: Settling, rules: Rules
) -> Iterator[tuple[str, World, Outcome]]:
    """Yield (label, world, outcome) for each call that settling can make next."""
    match now.at:
        case "list":
            yield _list(world, setting, run, now, rules)
        case "standby":
            newest = max((batch.seq, batch.timeline) for batch in (*now.now, *now.due))
            if any((flush.seq, flush.timeline) == newest for flush in world.postgres.ledger):
                after = world._replace(dump=world.postgres)
                yield "waits for a standby", after, now._replace(at="settle")
            else:
                yield "waits for a standby: lost", world, "failed"
        case "move":  # R4 broken
            batch = now.now[0]
            marker = world.shards[batch.shard].marker
            assert marker is not None
            moved = marker._replace(seq=batch.seq, batch=batch.number, of=batch.timeline)
            after = with_shard(world, batch.shard, moved)
            yield f"moves the marker of {batch.shard}", after, _sent(now._replace(at="settle"), batch, None, rules)
        case _:
            yield from _send(world, setting, run, now, rules)


def _list(world: World, setting: Setting, run: Run, now: Settling, rules: Rules) -> tuple[str, World, Outcome]:
    unchecked = (now.known[n] for n in now.unchecked)
    if "R20" not in rules and any(marker and is_other_history(world.postgres, marker) for marker in unchecked):
        return "lists batches: another history", world, "failed"
    now, due = now._replace(unchecked=()), list[Batch]()
    for number in now.left:
        marker = now.known[number]
        due += beyond(world.postgres, number, marker, now.through) if marker else ()
    if not due:
        return "lists batches: none", world, now._replace(at="done")
    if "R17" not in rules and world.timeline != run.timeline:
        return "lists batches: another timeline", world, "failed"
    left = tuple(n for n in now.left if any(batch.shard == n for batch in due))
    waits = setting.standby and "R18-earlier" not in rules
    return "lists batches", world, _next_round(now._replace(at="standby" if waits else "settle", left=left), due)


def _send(
    world: World, setting: Setting, run: Run, now: Settling, rules: Rules
) -> Iterator[tuple[str, World, Outcome]]:
    for batch in now.now:
        label, known = f"settles {batch.shard}", now.known[batch.shard]
        assert known is not None
        if not _served(world, setting, run, now, batch):
            unreached = now._replace(known=put(now.known, batch.shard, None), unreached=(*now.unreached, batch.shard))
            yield f"{label}: redirected", world, _resolve(_without(unreached, batch.shard), rules)
            continue
        if not now.own and run.targets and run.targets[batch.shard] != (world.shards[batch.shard].phase == "target"):
            label += ": followed"
        is_refused, after = _settle(world, batch, known, run.timeline, rules)
        if is_refused:
            refused = now._replace(refused=(*now.refused, (batch.shard, world.shards[batch.shard].marker)))
            yield f"{label}: refused", after, _resolve(_without(refused, batch.shard), rules)
            continue
        if "R4" in rules and after != world:
            rest = tuple(other for other in now.now if other != batch)
            yield label, after, now._replace(at="move", now=(batch, *rest))
            continue
        yield label, after, _sent(now, batch, after.shards[batch.shard].marker, rules)
        if world.left.resent:
            twice = _settle(after, batch, known, run.timeline, rules)[1]
            left = world.left._replace(resent=world.left.resent - 1)
            sent = _sent(now, batch, twice.shards[batch.shard].marker, rules)
            yield f"settles {batch.shard} twice", twice._replace(left=left), sent
        if "R5" in rules and now.due:
            yield f"{label}: lost", world, _sent(now, batch, None, rules)


def _without(now: Settling, shard: int) -> Settling:
    """Return it without the batches of a shard, which are left to the next list or to the next run."""
    batches = (tuple(batch for batch in part if batch.shard != shard) for part in (now.now, now.due))
    return now._replace(now=next(batches), due=next(batches))


def _served(world: World, setting: Setting, run: Run, now: Settling, batch: Batch) -> bool:
    """Whether a node accepts the settling script: while a shard migrates, one that has all keys of the script.

    Before the read, it is sent over the connection that reads.
    """
    shard, known = world.shards[batch.shard], now.known[batch.shard]
    if setting.wait and not now.own and run.servers and run.servers[batch.shard] not in (NEVER, shard.process):
        return False
    if shard.phase != "migrates" or known is None or batch.epoch != known.epoch:  # then it has one key, the marker
        return True
    exist = shard.marker is not None and world.counters[batch.vod] > 0
    return exist and shard.at_target(0) == shard.at_target(setting.key(batch.vod))


def _settle(world: World, batch: Batch, known: Marker, timeline: int, rules: Rules) -> tuple[bool, World]:
    """Run the settling script; return whether it is refused, and the world after it."""
    marker = world.shards[batch.shard].marker
    if marker is None or marker.epoch != known.epoch:
        return True, world
    if "R4-unmarked" not in rules:
        if batch.seq == marker.seq and batch.timeline != marker.of and "R20" not in rules:
            return True, world
        if batch.at <= marker.at:
            return False, world
        if (marker.at != known.at and "R5" not in rules) or (marker.timeline != timeline and "R17" not in rules):
            return True, world
    counters = world.counters
    if known.missing != (0, 0):
        marker = marker._replace(missing=known.missing)
    if batch.epoch == marker.epoch:
        left = 0 if "R2" in rules else max(counters[batch.vod] - batch.delta, 0)
        counters = put(counters, batch.vod, left)
    elif "R16" not in rules:  # the views that are skipped may be in these counters
        world = world._replace(epochs=world.epochs + 1)
        marker = marker._replace(hold=world.epochs)
    if "R4" not in rules and batch.at > marker.at:
        marker = marker._replace(seq=batch.seq, batch=batch.number, of=batch.timeline)
    return False, with_shard(world._replace(counters=counters), batch.shard, marker)


def _sent(now: Settling, batch: Batch, replied: Marker | None, rules: Rules) -> Outcome:
    known = now.known[batch.shard]
    assert known is not None
    known = known._replace(seq=batch.seq, batch=batch.number, of=batch.timeline)
    if replied:
        known = known._replace(hold=replied.hold)
    rest = tuple(other for other in now.now if other != batch)
    return _resolve(now._replace(known=put(now.known, batch.shard, known), now=rest), rules)


def _resolve(now: Settling, rules: Rules) -> Outcome:
    """Continue: with the next round; after the last one with what another run has left, or has settled meanwhile."""
    if now.now:
        return now
    if now.due:
        return _next_round(now, now.due)
    for number, marker in now.refused:
        known = now.known[number]
        assert known is not None
        if marker is None or ("R17" not in rules and marker.timeline != known.timeline):
            return "failed"
        now = now._replace(known=put(now.known, number, marker))
    refused = tuple(number for number, _ in now.refused)
    if now.own and not refused:
        return now._replace(at="done")
    left = refused if now.own else tuple(n for n in now.left if now.known[n])
    return now._replace(at="list", left=left, own=False, refused=(), unchecked=refused)
