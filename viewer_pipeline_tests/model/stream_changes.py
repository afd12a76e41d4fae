"""Changes of the streams, beside runs: `flush/stream_change.py` (docs/adr/0027-streams.md), on a single Redis.

Views have names here: a counter is the set of those that it holds. One step is one transaction or one script. Redis may
fall back to a copy, and PostgreSQL to a dump while nothing runs.

The law: no view is in the totals twice. Without a disaster, a flush is subtracted from counters that have its views,
and nothing is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from viewer_pipeline_tests.model.search import search

RULES = {
    "close": "a flush commits in a stream that is not active",
    "settle": "make the new markers before the streams are settled that were before",
    "stand": "make the new markers although an old one has moved",
    "pass on": "make the new markers without the `hold` of the old ones",
    "activate": "activate whatever streams are planned",
    "order": "activate the new streams before their markers are made",
}


class View(NamedTuple):
    """A view: of a VOD, with a name of its own."""

    vod: int
    name: int


Views = frozenset[View]


class Marker(NamedTuple):
    """The last flush of a stream that was settled, and what the counters are."""

    flush: int
    epoch: int
    hold: bool = False


class Flush(NamedTuple):
    """A flush in the ledger. `held`: those of its views that may have been counted before."""

    stream: int
    number: int
    epoch: int
    views: Views
    held: Views


class Stream(NamedTuple):
    """A row of the table of streams."""

    id: int
    part: int
    parts: int
    state: str
    epoch: int


class Redis(NamedTuple):
    """Counters, and markers by stream. `life`: a run sees by its connection that the server is another one."""

    views: Views
    markers: tuple[tuple[int, Marker], ...]
    life: int = 0


class Postgres(NamedTuple):
    """The ledger, and its streams."""

    streams: tuple[Stream, ...]
    flushes: tuple[Flush, ...] = ()


class Run(NamedTuple):
    """A run in one stream: its next step and its state."""

    at: str = "ledger"
    stream: Stream | None = None
    last: int = 0
    marker: Marker = Marker(0, 0)
    life: int = 0
    read: Views = frozenset()


class Change(NamedTuple):
    """A change to `parts` streams: its next step and its state."""

    parts: int
    at: str = "plan"
    before: tuple[Stream, ...] = ()
    planned: tuple[Stream, ...] = ()
    settled: tuple[Marker, ...] = ()  # of the streams before


class World(NamedTuple):
    """Both servers, older copies of them, the actors, and the events that may still happen."""

    redis: Redis
    copy: Redis
    postgres: Postgres
    dump: Postgres
    runs: tuple[Run, ...]
    changes: tuple[Change, ...]
    names: int = 2  # of views that were sent
    epochs: int = 1
    wrong: str = ""  # what a step did that must not happen
    calm: bool = True  # no disaster has happened
    sends: int = 0
    crashes: int = 0
    copies: int = 0
    restored: int = 0
    dumps: int = 0
    rolled_back: int = 0


ENDED, DONE = Run("ended"), "ended"


def start(runs: int, changes: Sequence[int], *, has_marker: bool = True, flushed: bool = False, **left: int) -> World:
    """Return a world with one stream, a view in each of two counters, and changes to so many streams.

    `flushed`: earlier views of both are counted.
    """
    redis = Redis(frozenset({View(0, 0), View(1, 1)}), ((0, Marker(int(flushed), 1)),) if has_marker else ())
    earlier = Flush(0, 1, 1, frozenset({View(0, -1), View(1, -2)}), frozenset())
    postgres = Postgres((Stream(0, 0, 1, "active", 0),), (earlier,) if flushed else ())
    world = World(redis, redis, postgres, postgres, (Run(),) * runs, tuple(map(Change, changes)))
    return world._replace(**left)  # type: ignore[arg-type]


SCENES = {
    "calm": start(2, [2], sends=1, crashes=1),
    "repeated": start(1, [2, 2], crashes=1),
    "concurrent": start(2, [2, 3]),
    "concurrent, after a flush": start(1, [2, 3], flushed=True),
    "restored": start(2, [2], copies=1, restored=1),
    "restored without a marker": start(3, [2], restored=1, has_marker=False),
    "rolled back": start(2, [2, 2], dumps=1, rolled_back=1),
}
LARGE = {
    "calm, three runs": start(3, [2], sends=1, crashes=1),
    "concurrent, new views": start(2, [2, 3], sends=1),
    "repeated, two runs": start(2, [2, 2], crashes=1),
    "concurrent, crashes": start(2, [2, 3], crashes=1),
    "restored, three runs": start(3, [2], copies=1, restored=1),
    "rolled back, new views": start(3, [2, 2], sends=1, dumps=1, rolled_back=1),
    "restored, repeated": start(2, [2, 2], copies=1, restored=1, crashes=1),
}
BROKEN = {
    "close": "calm",
    "settle": "calm",
    "stand": "restored",
    "pass on": "restored without a marker",
    "activate": "concurrent, after a flush",
    "order": "calm",
}


def explore(first: World, rule: str = "") -> tuple[int, str, list[str]]:
    """Visit every state; return their number, and a violation of the law with the path to it."""
    return search(first, lambda world: _sorted_successors(world, rule), violation)


def _sorted_successors(world: World, rule: str) -> Iterator[tuple[str, World]]:
    """The order of actors does not matter."""
    for label, after in successors(world, rule):
        runs, changes = sorted(after.runs, key=hash), sorted(after.changes, key=hash)
        yield label, after._replace(runs=tuple(runs), changes=tuple(changes))


def violation(world: World) -> str:
    """Return the violation of the law; "" if there is none."""
    counted = [view for flush in world.postgres.flushes for view in flush.views]
    if len(counted) > len(set(counted)):
        return f"views are counted twice: {world}"
    if world.calm and any(flush.held for flush in world.postgres.flushes):
        return f"views are held: {world}"
    return f"{world.wrong}: {world}" if world.wrong else ""


def successors(world: World, rule: str = "") -> Iterator[tuple[str, World]]:
    """Yield every possible next step."""
    for n, run in enumerate(world.runs):
        for label, after, moved in _steps(world, run, rule):
            yield f"run {n} {label}", after._replace(runs=(*world.runs[:n], moved, *world.runs[n + 1 :]))
        if world.crashes and run.at not in ("ledger", DONE):
            runs = (*world.runs[:n], ENDED, *world.runs[n + 1 :])
            yield f"run {n} dies", world._replace(crashes=world.crashes - 1, runs=runs)
    for n, change in enumerate(world.changes):
        for label, after, moved_on in _changes(world, change, rule):
            yield f"change {n} {label}", after._replace(changes=(*world.changes[:n], moved_on, *world.changes[n + 1 :]))
        if world.crashes and change.at not in ("plan", DONE):
            changes = (*world.changes[:n], change._replace(at=DONE), *world.changes[n + 1 :])
            yield f"change {n} dies", world._replace(crashes=world.crashes - 1, changes=changes)
    yield from _events(world)


def _events(world: World) -> Iterator[tuple[str, World]]:
    if world.sends:
        for vod in (0, 1):
            redis = world.redis._replace(views=world.redis.views | {View(vod, world.names)})
            yield f"INCR {vod}", world._replace(redis=redis, names=world.names + 1, sends=world.sends - 1)
    if world.copies and world.copy != world.redis:
        yield "copy", world._replace(copy=world.redis, copies=world.copies - 1)
    if world.restored and world.copy != world.redis:
        redis = world.copy._replace(life=world.redis.life + 1)
        yield "restored", world._replace(redis=redis, restored=world.restored - 1, calm=False)
    steps = [*(run.at for run in world.runs), *(change.at for change in world.changes)]
    busy = any(step not in ("ledger", "plan", DONE) for step in steps)
    if world.dumps and world.dump != world.postgres:
        yield "dump", world._replace(dump=world.postgres, dumps=world.dumps - 1)
    if world.rolled_back and world.dump != world.postgres and not busy:
        yield "rolled back", world._replace(postgres=world.dump, rolled_back=world.rolled_back - 1, calm=False)


# --- both servers ---


def in_part(views: Views, stream: Stream) -> Views:
    """Return the views of the VODs of a stream."""
    return views if stream.parts == 1 else frozenset(view for view in views if view.vod == stream.part)


def marker_of(redis: Redis, stream: int) -> Marker | None:
    """Return the marker of a stream."""
    return dict(redis.markers).get(stream)


def put(redis: Redis, stream: int, marker: Marker) -> Redis:
    """Return Redis with this marker."""
    return redis._replace(markers=tuple(sorted((dict(redis.markers) | {stream: marker}).items())))


def last_flush(postgres: Postgres, stream: int) -> int:
    """Return the number of the last flush of a stream; 0 if it has none."""
    return max((flush.number for flush in postgres.flushes if flush.stream == stream), default=0)


def make_marker(world: World, stream: int, last: int) -> World:
    """Make the marker of a stream where there is none: with `hold`, unless nothing was ever committed (R16)."""
    if marker_of(world.redis, stream) is not None:
        return world
    marker = Marker(last, world.epochs + 1, hold=(stream, last) != (0, 0))
    return world._replace(redis=put(world.redis, stream, marker), epochs=world.epochs + 1)


def settle(world: World, stream: int, known: Marker) -> tuple[World, Marker | None]:
    """Settle the next flush of a stream beyond a marker; None if that has moved, itself if there is none."""
    due = [flush for flush in world.postgres.flushes if flush.stream == stream and flush.number > known.flush]
    if not due:
        return world, known
    flush, marker = min(due, key=lambda each: each.number), marker_of(world.redis, stream)
    if marker is None or (marker.flush, marker.epoch) != (known.flush, known.epoch):
        return world, None
    views, moved = flush.views | flush.held, marker._replace(flush=flush.number)
    if flush.epoch != marker.epoch:  # it was read from other counters
        return world._replace(redis=put(world.redis, stream, moved._replace(hold=True))), moved._replace(hold=True)
    wrong = "views are subtracted from counters that lack them" if world.calm and not views <= world.redis.views else ""
    redis = put(world.redis._replace(views=world.redis.views - views), stream, moved)
    return world._replace(redis=redis, wrong=wrong), moved


# --- runs ---


def _steps(world: World, run: Run, rule: str) -> Iterator[tuple[str, World, Run]]:
    match run.at:
        case "ledger":
            for stream in world.postgres.streams:
                if stream.state == "active":
                    last = last_flush(world.postgres, stream.id)
                    yield f"reads the ledger of {stream.id}", world, Run("begin", stream, last)
        case "begin":
            assert run.stream is not None
            after = make_marker(world, run.stream.id, run.last)
            marker = marker_of(after.redis, run.stream.id)
            assert marker is not None
            begun = run._replace(at="settle", marker=marker, life=world.redis.life)
            yield "begins", after, begun._replace(last=max(run.last, marker.flush))
        case "settle":
            yield _settle(world, run)
        case "check":
            yield from _check(world, run)
        case "commit":
            yield from _commit(world, run, rule)
        case "settle own":
            assert run.stream is not None
            yield "settles its flush", settle(world, run.stream.id, run.marker)[0], ENDED


def _settle(world: World, run: Run) -> tuple[str, World, Run]:
    """Settle a flush of an earlier run; read the counters once none is left."""
    assert run.stream is not None
    after, known = settle(world, run.stream.id, run.marker)
    if known is None:
        return "is too late", world, ENDED
    if known == run.marker:
        return "reads", world, run._replace(at="check", read=in_part(world.redis.views, run.stream))
    return "settles", after, run._replace(marker=known, last=max(run.last, known.flush))


def _check(world: World, run: Run) -> Iterator[tuple[str, World, Run]]:
    """The marker stands where it stood before the counters were read, in the same Redis (R6)."""
    assert run.stream is not None
    marker = marker_of(world.redis, run.stream.id)
    moved = marker is None or (marker.flush, marker.epoch) != (run.marker.flush, run.marker.epoch)
    if moved or marker is None or world.redis.life != run.life or not run.read:
        yield "checks, and ends", world, ENDED
    else:
        yield "checks", world, run._replace(at="commit", marker=marker)


def _commit(world: World, run: Run, rule: str) -> Iterator[tuple[str, World, Run]]:
    assert run.stream is not None
    postgres, base = world.postgres, run.last
    row = next((row for row in postgres.streams if row.id == run.stream.id), None)
    is_active = row is not None and (row.state == "active" or rule == "close")
    if not is_active or max(last_flush(postgres, run.stream.id), base) != base:
        yield "is superseded", world, ENDED
        return
    held = _counted(postgres, run.read) if run.marker.hold else frozenset[View]()
    flush = Flush(run.stream.id, base + 1, run.marker.epoch, run.read - held, held)
    after = world._replace(postgres=postgres._replace(flushes=(*postgres.flushes, flush)))
    yield "commits", after, run._replace(at="settle own")


def _counted(postgres: Postgres, read: Views) -> Views:
    """Return as many views of each VOD as were ever counted; those that were, first of all."""
    held = set[View]()
    counted = {view for flush in postgres.flushes for view in flush.views | flush.held}
    for vod in (0, 1):
        mine = sorted((view for view in read if view.vod == vod), key=lambda view: (view not in counted, view.name))
        held |= set(mine[: sum(view.vod == vod for view in counted)])
    return frozenset(held)


# --- changes ---


def _changes(world: World, change: Change, rule: str) -> Iterator[tuple[str, World, Change]]:
    match change.at:
        case "plan":
            yield "plans", *_plan(world, change)
        case "settle":
            yield from _settle_all(world, change, rule)
        case "open":
            yield from _open(world, change, rule)
        case "activate":
            yield "activates", *_activate(world, change, rule)


def in_state(postgres: Postgres, state: str) -> tuple[Stream, ...]:
    """Return the streams in this state."""
    return tuple(stream for stream in postgres.streams if stream.state == state)


def _plan(world: World, change: Change, *, again: bool = False) -> tuple[World, Change]:
    """Close the active streams, and plan others, unless as many are active or planned already."""
    postgres = world.postgres
    enough = change.parts in (len(in_state(postgres, "active")), len(in_state(postgres, "planned")))
    if again or not enough:
        closed = {"active": "closing", "planned": "closed"}
        rows = [row._replace(state=closed.get(row.state, row.state)) for row in postgres.streams]
        first, epoch = max(row.id for row in rows) + 1, world.epochs + 1
        rows += [Stream(first + part, part, change.parts, "planned", epoch) for part in range(change.parts)]
        postgres = postgres._replace(streams=tuple(rows))
        world = world._replace(postgres=postgres, epochs=epoch)
    before, planned = in_state(postgres, "closing"), in_state(postgres, "planned")
    if not planned:
        return world, change._replace(at=DONE)
    return world, change._replace(at="settle", before=before, planned=planned, settled=())


def _settle_all(world: World, change: Change, rule: str) -> Iterator[tuple[str, World, Change]]:
    """Settle the streams before, one after the other; `settled` grows by the marker of each."""
    if len(change.settled) == len(change.before):
        yield "has settled", world, change._replace(at="activate" if rule == "order" else "open")
        return
    stream = change.before[len(change.settled)].id
    after = make_marker(world, stream, last_flush(world.postgres, stream))
    marker = marker_of(after.redis, stream)
    assert marker is not None
    settled, known = settle(after, stream, marker)
    if known == marker or rule == "settle":
        yield f"sees {stream} settled", after, change._replace(settled=(*change.settled, marker))
    else:
        yield f"settles {stream}", settled, change


def _open(world: World, change: Change, rule: str) -> Iterator[tuple[str, World, Change]]:
    """The script `open_streams`."""
    old = [marker_of(world.redis, stream.id) for stream in change.before]
    stands = [(marker.flush, marker.epoch) if marker else None for marker in old]
    if stands != [(marker.flush, marker.epoch) for marker in change.settled] and rule != "stand":
        yield "settles again", world, change._replace(at="settle", settled=())
        return
    new = [marker_of(world.redis, stream.id) for stream in change.planned]
    epochs = [marker.epoch if marker else stream.epoch for marker, stream in zip(new, change.planned, strict=True)]
    if epochs != [stream.epoch for stream in change.planned]:  # in use, by a change that PostgreSQL has lost
        planned = in_state(world.postgres, "planned")
        if len(planned) == change.parts:
            yield "plans again", *_plan(world, change, again=planned == change.planned)
        else:
            yield "gives up", world, change._replace(at=DONE)
        return
    hold, redis = any(marker and marker.hold for marker in old) and rule != "pass on", world.redis
    for stream, marker in zip(change.planned, new, strict=True):
        made = marker or Marker(0, stream.epoch)
        redis = put(redis, stream.id, made._replace(hold=made.hold or hold))
    after = change._replace(at=DONE if rule == "order" else "activate")
    yield "opens", world._replace(redis=redis), after


def _activate(world: World, change: Change, rule: str) -> tuple[World, Change]:
    done = change._replace(at="open" if rule == "order" else DONE)
    if in_state(world.postgres, "planned") != change.planned and rule != "activate":
        return world, done
    states = {"planned": "active", "closing": "closed"}
    rows = tuple(row._replace(state=states.get(row.state, row.state)) for row in world.postgres.streams)
    return world._replace(postgres=world.postgres._replace(streams=rows)), done
