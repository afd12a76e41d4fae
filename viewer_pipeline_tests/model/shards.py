"""The flush over the shards of a Redis Cluster: two runs and a producer, and shards that disasters strike one by one.

A shard is a hash slot: a marker and counters. It migrates key by key, falls back to a copy, or is emptied. One step is
one call to one server; a batch has one counter. As in the code, a run reads each shard with one script, which returns
the marker with the counters, leaves out a shard that does not reply, and lists what the ledger has beyond the markers.
After PostgreSQL was rolled back it first reads all markers, and stores the largest number as the `floor`. The home
slot, which has the floor and the record of markers with `hold`, loses nothing here. shard_rehearsal.py drives traces of
this model through the code.

The law is that of law.py, for each VOD. Besides, the number of a flush that a marker has is never given again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import product

from viewer_pipeline_tests.model.explore import without_cycles
from viewer_pipeline_tests.model.shard_run import copy_of, steps
from viewer_pipeline_tests.model.shard_settling import beyond
from viewer_pipeline_tests.model.shard_values import (
    ENDED,
    NO_HOLD,
    Batch,
    Copy,
    Flush,
    Marker,
    Postgres,
    Rules,
    Run,
    Setting,
    Settling,
    Shard,
    Views,
    World,
    put,
)

RULES = {
    "R1": "write ledger and totals in two transactions",
    "R2": "set the counter to zero instead of subtracting",
    "R3-unique": "commit although another run committed above base",
    "R3-settle-first": "read the counters of a shard before the batches of an earlier run are settled there",
    "R4": "move the marker in a call after the subtraction",
    "R4-node": "one marker for each node: a shard that moves meets that of its new node",
    "R4-unmarked": "settle without comparing the marker",
    "R5": "settle a batch although its predecessor in the shard did not arrive",
    "R6": "number the flush above the ledger's last flush only",
    "R6-floor": "number it above the ledger's last flush and the markers of the shards that the run reads",
    "R7": "commit views that no replica of their shard has",
    "R12": "read marker and counters in two calls",
    "R14": "give a flush the epoch of its first shard instead of one for each batch",
    "R16": "count all views of a shard whose marker was lost",
    "R16-end": "clear `hold` although it was written after the run had begun",
    "R17": "do not compare the timeline of PostgreSQL",
    "R17-any": "replace any timeline in a marker, also one that is newer than that of the run",
    "R18": "settle a flush that no standby has",
    "R18-earlier": "settle what an earlier run left before a standby has it",
}
Explored = tuple[int, str, list[str]]  # states, violation, path to it


def explore(setting: Setting, *broken: str, goal: Callable[[World], bool] = lambda _: False) -> Explored:
    """Visit every state; return their number, and a violation of the law, or "goal", with the path to it."""
    with without_cycles():
        return _explore(starts(setting), setting, frozenset(broken), goal)


def _explore(first: list[World], setting: Setting, rules: Rules, goal: Callable[[World], bool]) -> Explored:
    origins: dict[World, tuple[World, str] | None] = dict.fromkeys(first)
    queue = deque(first)
    while queue:
        world = queue.popleft()
        if violated := violation(world, setting, rules) or ("goal" if goal(world) else ""):
            path, at = list[str](), origins[world]
            while at is not None:
                path.append(at[1])
                at = origins[at[0]]
            return len(origins), violated, path[::-1]
        for label, step in successors(world, setting, rules):
            after = step._replace(runs=tuple(sorted(step.runs, key=hash)))
            if after not in origins:
                origins[after] = world, label
                queue.append(after)
    return len(origins), "", []


def starts(setting: Setting) -> list[World]:
    """Return the world in which each VOD has one view in Redis, for each way to cut the rows of the runs.

    If `lost`, PostgreSQL has the views of the struck shard, too.
    """
    ones, none = (1,) * len(setting.shard_of), (0,) * len(setting.shard_of)
    shards = (Shard(None if setting.bare else Marker()),) * (max(setting.shard_of) + 1)
    postgres = Postgres((), none, none)
    world = World(shards, ones, ones, postgres, postgres, (), (None,) * len(shards), ones, ones, ones, setting.left)
    struck = setting.events_at[0]
    if setting.bare or setting.left.restored:
        world = world._replace(copy=copy_of(world, setting, struck))
    if setting.lost:
        batches = tuple(Batch(1, number, struck, vod, 1, 0, 0) for number, vod in enumerate(setting.vods(struck), 1))
        totals = tuple(int(at == struck) for at in setting.shard_of)
        lost = Postgres((Flush(1, 0, held=False, batches=batches),), totals, none)
        world = world._replace(postgres=lost, dump=lost)
    cuts = product(setting.cuts, repeat=len(setting.runs))
    return [world._replace(runs=tuple(map(Run, setting.runs, own))) for own in cuts]


# --- events ---


def successors(world: World, setting: Setting, rules: Rules) -> Iterator[tuple[str, World]]:
    """Yield every possible next step."""
    left = world.left
    for n, run in enumerate(world.runs):
        for label, after, moved in steps(world, setting, run, rules):
            yield f"run {n} {label}", after._replace(runs=put(world.runs, n, moved))
        if left.crashes and run.at not in ("read ledger", "ended"):
            rest = put(world.runs, n, ENDED)
            yield f"run {n} dies", world._replace(left=left._replace(crashes=left.crashes - 1), runs=rest)
    if left.sends:
        for vod in setting.sends_to:
            yield f"INCR {vod}", _increment(world, setting, vod)
    for number in setting.events_at:
        yield from _migration(world, setting, number, rules)
        yield from _disasters(world, setting, number)
    if world.dump != world.postgres:
        if left.dumps:
            yield "dump", world._replace(dump=world.postgres, left=left._replace(dumps=left.dumps - 1))
        if left.rolled_back:
            yield "PostgreSQL is rolled back", _roll_back(world, setting)


def _increment(world: World, setting: Setting, vod: int) -> World:
    number = setting.shard_of[vod]
    shard, row = world.shards[number], [world.counters, world.incremented, world.sent, world.lower, world.upper]
    if shard.phase == "migrates" and not world.counters[vod]:  # the key is made at the target
        shard = shard._replace(moved=put(shard.moved, setting.key(vod), value=True))
    counters, incremented, sent, lower, upper = (put(views, vod, views[vod] + 1) for views in row)
    return world._replace(
        shards=put(world.shards, number, shard),
        counters=counters,
        incremented=incremented,
        sent=sent,
        lower=lower,
        upper=upper,
        left=world.left._replace(sends=world.left.sends - 1),
    )


def _migration(world: World, setting: Setting, number: int, rules: Rules) -> Iterator[tuple[str, World]]:
    shard, left = world.shards[number], world.left
    vods = setting.vods(number)
    if shard.phase == "source" and left.migrations:
        begun = shard._replace(phase="migrates", moved=(False,) * (1 + len(vods)))
        after = world._replace(shards=put(world.shards, number, begun))
        yield f"shard {number} begins to move", after._replace(left=left._replace(migrations=left.migrations - 1))
    if shard.phase != "migrates":
        return
    exist = (shard.marker is not None, *(world.counters[vod] > 0 for vod in vods))
    rest = [key for key, moved in enumerate(shard.moved) if exist[key] and not moved]
    for key in rest:
        moved = shard._replace(moved=put(shard.moved, key, value=True))
        yield f"key {key} of shard {number} moves", world._replace(shards=put(world.shards, number, moved))
    if not rest:
        marker = world.shards[1 - number].marker if "R4-node" in rules else shard.marker
        moved = shard._replace(marker=marker, phase="target", moved=())
        yield f"shard {number} has moved", world._replace(shards=put(world.shards, number, moved))


def _disasters(world: World, setting: Setting, number: int) -> Iterator[tuple[str, World]]:
    left, shard, copy = world.left, world.shards[number], copy_of(world, setting, number)
    if shard.phase != "migrates":
        if left.copies and copy not in (world.copy, copy._replace(marker=None)):
            yield f"copy of shard {number}", world._replace(copy=copy, left=left._replace(copies=left.copies - 1))
        if left.emptied:
            none = (0,) * len(copy.counters)
            after = _replaced(world, setting, Copy(number, None, shard.lineage + 1, none, none), shard.process)
            gone = tuple(max(n, 0) if setting.shard_of[vod] == number else 0 for vod, n in enumerate(pending(world)))
            after = after._replace(left=left._replace(emptied=left.emptied - 1))
            yield f"shard {number} is emptied", _excuse(after, setting, gone)
        if left.restored and world.copy is not None and world.copy.shard == number and world.copy != copy:
            after = _replaced(world, setting, world.copy, shard.process + 1)
            gone = _gone_with_fallback(world, after, setting, number)
            after = after._replace(left=left._replace(restored=left.restored - 1))
            yield f"shard {number} falls back", _excuse(after, setting, gone)
    if left.unreplicated and shard.phase != "source":
        there = [(0, 1) if shard.at_target(key) else (1,) for key in range(1 + len(copy.counters))]
        for kept in product(*there):
            if all(kept):
                continue
            counters, incremented = (
                tuple(n * k for n, k in zip(views, kept[1:], strict=True))
                for views in (copy.counters, copy.incremented)
            )
            part = copy._replace(marker=shard.marker if kept[0] else None, counters=counters, incremented=incremented)
            after = _replaced(world, setting, part, shard.process + (shard.phase == "target"))
            after = after._replace(left=left._replace(unreplicated=left.unreplicated - 1))
            yield f"the target of shard {number} keeps keys {kept}", _excuse(after, setting, _fewer(world, after))


def _replaced(world: World, setting: Setting, copy: Copy, process: int) -> World:
    """Return the world whose shard has the state of a copy, in this process."""
    counters, incremented, number = world.counters, world.incremented, copy.shard
    for vod, n, ever in zip(setting.vods(number), copy.counters, copy.incremented, strict=True):
        counters, incremented = put(counters, vod, n), put(incremented, vod, ever)
    shard = world.shards[number]._replace(marker=copy.marker, lineage=copy.lineage, process=process)
    return world._replace(shards=put(world.shards, number, shard), counters=counters, incremented=incremented)


def _roll_back(world: World, setting: Setting) -> World:
    gone = [0] * len(world.sent)
    for flush in world.postgres.ledger if not setting.standby else ():  # what a standby lacks is still in Redis
        if flush not in world.dump.ledger:
            for batch in flush.batches:
                gone[batch.vod] += batch.delta
    left = world.left._replace(rolled_back=world.left.rolled_back - 1)
    after = world._replace(postgres=world.dump, timeline=world.timeline + 1, left=left)
    return _excuse(after, setting, tuple(gone))


# --- the law ---


def pending(world: World) -> Views:
    """Return the views that Redis alone has; negative if it lost views that were committed."""
    alone = list(world.counters)
    for number, shard in enumerate(world.shards):
        if shard.marker:
            for batch in beyond(world.postgres, number, shard.marker):
                alone[batch.vod] -= batch.delta if batch.epoch == shard.marker.epoch else 0
    return tuple(alone)


def _fewer(before: World, after: World) -> Views:
    return tuple(n - m for n, m in zip(before.incremented, after.incremented, strict=True))


def _gone_with_fallback(before: World, after: World, setting: Setting, number: int) -> Views:
    """Return the views that a shard may lose that falls back to a copy: see law.py."""
    now, then, fewer = pending(before), pending(after), _fewer(before, after)
    same = before.shards[number].lineage == after.shards[number].lineage
    gone = [0] * len(now)
    for vod in setting.vods(number):
        if same:
            gone[vod] = min(fewer[vod], max(now[vod], 0)) if setting.wait else fewer[vod]
        else:
            gone[vod] = max(now[vod], 0) + (0 if setting.wait else max(-then[vod], 0))
    return tuple(gone)


def _excuse(after: World, setting: Setting, gone: Views) -> World:
    """Return the world after a disaster that may have lost these views, with the bounds from now on."""
    lower = tuple(n - g for n, g in zip(after.lower, gone, strict=True))
    if any(any(run.read) or run.rows or run.committed or _settles(run) for run in after.runs):
        return after._replace(lower=lower, upper=after.sent)
    alone = pending(after)
    left = tuple(n + max(m, 0) for n, m in zip(after.postgres.stored, alone, strict=True))
    if any(not low <= n <= sent for low, n, sent in zip(lower, left, after.sent, strict=True)):
        return after._replace(lower=lower, upper=after.sent)  # violated already: the next state without a run shows it
    drift = (0 if setting.wait else min(n, 0) for n in alone)
    return after._replace(lower=tuple(n + d for n, d in zip(left, drift, strict=True)), upper=left)


def _settles(run: Run) -> bool:
    return any(isinstance(settling, Settling) and settling.now for settling in (run.settling, run.settler))


def violation(world: World, setting: Setting, rules: Rules) -> str:
    """Return the violation of the law; "" if there is none."""
    stored = world.postgres.stored
    for vod, low in enumerate(world.lower):
        if stored[vod] + world.counters[vod] < low:
            return f"a reader misses views of VOD {vod}: {world}"
    if any(run != ENDED for run in world.runs) or any(shard.phase == "migrates" for shard in world.shards):
        return ""
    for vod, alone in enumerate(pending(world)):
        left, number = max(alone, 0), setting.shard_of[vod]
        held = min(left, stored[vod]) if "R16" not in rules and _will_hold(world, number) else 0
        if world.postgres.totals[vod] + left - held > world.upper[vod]:
            return f"doubled views of VOD {vod}: {world}"
        if stored[vod] + left < world.lower[vod]:
            return f"lost views of VOD {vod}: {world}"
    return _given_again(world) if setting.numbers else ""


def _given_again(world: World) -> str:
    """Return the violation if the ledger has another flush under the number of a marker: the code refuses it (R20)."""
    flushes = {flush.seq: flush.timeline for flush in world.postgres.ledger}
    for shard in world.shards:
        if shard.marker and flushes.get(shard.marker.seq, shard.marker.of) != shard.marker.of:
            return f"a number was given again: {world}"
    return ""


def _will_hold(world: World, number: int) -> bool:
    """Whether the next run holds views of a shard."""
    marker = world.shards[number].marker
    if marker is None or marker.hold != NO_HOLD:
        return bool(world.postgres.ledger)
    return any(batch.epoch != marker.epoch for batch in beyond(world.postgres, number, marker))
