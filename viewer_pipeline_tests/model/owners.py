"""A model of two ledgers and one Redis: one counter, flushes of one batch, every order of the calls of two runs.

The second ledger is a copy of the first one, made at some time: a restored dump, with an identity of its own (`adopt`
gives it the counters), or a physical copy, with the same identity. It may also have flushed elsewhere: a copy of Redis,
with the same epoch, was beside it.

The law, whenever no run is alive: the views that the ledger in the marker has counted from this Redis, plus the pending
views, are the views that were sent. For physical copies, which share that identity: the views that either of them has
counted; and at most one of them records that it lost flushes.

One case is left out, because the protocol cannot tell it from a run that died before it settled: copies of *both*
servers were made, the copied ledger flushed beside the copied Redis, and comes to the original Redis before the
original ledger has flushed once more. `Scene.early` shows the effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from viewer_pipeline_tests.model.search import search

RULES = ("R19-begin", "R19-settle", "R20-flush", "R20-missing")


class Flush(NamedTuple):
    """A flush, identified by `made`. `elsewhere`: its views never were in this Redis."""

    seq: int
    made: int
    views: int
    elsewhere: bool = False


class Marker(NamedTuple):
    """The last flush that was subtracted, its owner, and the flushes that this ledger had lost by then."""

    seq: int
    made: int
    owner: int
    missing: tuple[int, int] = (0, 0)


class Run(NamedTuple):
    """A run of one ledger, with its state."""

    ledger: int
    at: str = "begin"
    base: int = 0
    marker: Marker = Marker(0, 0, 0)
    read: int = 0
    flush: Flush | None = None


class Left(NamedTuple):
    """The events that may still happen."""

    sends: int = 1
    runs: tuple[int, int] = (2, 2)
    copies: int = 1
    adoptions: int = 0
    elsewhere: int = 0


class World(NamedTuple):
    """Both ledgers, the counter, the marker and the runs that are under way."""

    left: Left
    ledgers: tuple[tuple[Flush, ...], tuple[Flush, ...]] = ((), ())
    counter: int = 1
    marker: Marker | None = None
    runs: tuple[Run, ...] = ()
    sent: int = 1
    made: int = 0
    reported: tuple[bool, bool] = (False, False)  # whether each ledger has recorded that it lost flushes


class Scene(NamedTuple):
    """`physical`: both copies have the same identity, and only one has runs at a time."""

    left: Left
    physical: bool = False
    early: bool = False  # a copy that flushed elsewhere may begin before the original has flushed again
    broken: str = ""

    def owner(self, ledger: int) -> int:
        """Return the identity of a ledger."""
        return 0 if self.physical else ledger


def explore(scene: Scene) -> tuple[int, str, list[str]]:
    """Visit every state; return their number, and the first violation with the path to it."""
    return search(World(scene.left), lambda world: steps(world, scene), lambda world: violation(world, scene))


def violation(world: World, scene: Scene) -> str:
    """Return the violation of the law; "" if there is none."""
    if world.runs or world.marker is None:
        return ""
    if all(world.reported):
        return f"both copies recorded that they lost flushes: {world}"
    owned = world.ledgers[world.marker.owner]
    counted = set(world.ledgers[0]) | set(world.ledgers[1]) if scene.physical else set(owned)
    views = sum(flush.views for flush in counted if not flush.elsewhere)
    due = sum(flush.views for flush in owned if flush.seq > world.marker.seq)
    if views + world.counter - (0 if scene.physical else due) != world.sent:
        return f"{views} views counted, {world.counter} in Redis, {world.sent} sent: {world}"
    return ""


def steps(world: World, scene: Scene) -> Iterator[tuple[str, World]]:
    """Yield every possible next step."""
    left = world.left
    if left.sends:
        more = world._replace(left=left._replace(sends=left.sends - 1))
        yield "INCR", more._replace(counter=world.counter + 1, sent=world.sent + 1)
    for ledger in (0, 1):
        alone = not world.runs or not scene.physical
        if left.runs[ledger] and alone and (ledger == 0 or _may_begin(world, scene)):
            runs = (left.runs[0] - (ledger == 0), left.runs[1] - (ledger == 1))
            after = world._replace(left=left._replace(runs=runs), runs=(*world.runs, Run(ledger)))
            yield f"run of {ledger} starts", after
    if left.copies and not (scene.physical and world.runs):
        ledgers = world.ledgers[0], world.ledgers[0]
        yield "copy", world._replace(left=left._replace(copies=left.copies - 1), ledgers=ledgers)
    if left.elsewhere and not left.copies and left.runs[1] == Left().runs[1]:  # before its first run here
        yield "flush elsewhere", _flushed_elsewhere(world)
    if left.adoptions and world.marker and world.marker.owner == 0 and not left.copies:
        at = world.marker
        if at.seq == 0 or any(flush[:2] == at[:2] for flush in world.ledgers[1]):
            marker = at._replace(owner=1)
            yield "adopt", world._replace(left=left._replace(adoptions=left.adoptions - 1), marker=marker)
    for number, run in enumerate(world.runs):
        for label, after, moved in _run_steps(world, run, scene):
            rest = (*after.runs[:number], *((moved,) if moved else ()), *after.runs[number + 1 :])
            yield f"run of {run.ledger}: {label}", after._replace(runs=rest)


def _may_begin(world: World, scene: Scene) -> bool:
    """Whether a run of the copy can begin: only if there is a copy; if it flushed elsewhere, not too early."""
    if world.left.copies:
        return False
    mine, others = world.ledgers[1], world.ledgers[0]
    early = any(flush.elsewhere for flush in mine) and set(others) <= set(mine)
    return scene.early or not early


def _flushed_elsewhere(world: World) -> World:
    seq = world.ledgers[1][-1].seq + 1 if world.ledgers[1] else 1
    flush = Flush(seq, world.made + 1, 1, elsewhere=True)
    left = world.left._replace(elsewhere=world.left.elsewhere - 1)
    return world._replace(left=left, made=flush.made, ledgers=(world.ledgers[0], (*world.ledgers[1], flush)))


def _run_steps(world: World, run: Run, scene: Scene) -> Iterator[tuple[str, World, Run | None]]:
    match run.at:
        case "begin":
            yield _begin(world, run, scene)
        case "settle":
            yield _settle_due(world, run, scene)
        case "read":
            yield "read", world, run._replace(at="confirm", read=world.counter)
        case "confirm":
            same = world.marker is not None and world.marker.owner == run.marker.owner
            yield "confirm", world, run._replace(at="commit") if same and run.read else None
        case "commit":
            ledger = world.ledgers[run.ledger]
            if ledger and ledger[-1].seq > run.base:
                yield "superseded", world, None
                return
            flush = Flush(run.base + 1, world.made + 1, run.read)
            after = world._replace(made=flush.made, ledgers=_put(world.ledgers, run.ledger, (*ledger, flush)))
            yield "commit", after, run._replace(at="settle own", flush=flush)
        case _:
            assert run.flush is not None
            yield "settle", _settled(world, run, run.flush, scene), None


def _begin(world: World, run: Run, scene: Scene) -> tuple[str, World, Run | None]:
    ledger, owner = world.ledgers[run.ledger], scene.owner(run.ledger)
    last = ledger[-1] if ledger else Flush(0, 0, 0)
    marker = world.marker or Marker(last.seq, last.made, owner)
    if marker.owner != owner and scene.broken != "R19-begin":
        return "is refused: another ledger", world, None
    if _other_history(ledger, marker, scene):
        return "is refused: another history", world, None
    world = world._replace(marker=marker)
    if marker.seq > last.seq:
        reported = (True, world.reported[1]) if run.ledger == 0 else (world.reported[0], True)
        world = world._replace(reported=reported)
        marker = marker._replace(missing=(last.seq, marker.seq))
    return "begin", world, run._replace(at="settle", base=max(last.seq, marker.seq), marker=marker)


def _other_history(ledger: tuple[Flush, ...], marker: Marker, scene: Scene) -> bool:
    after, through = marker.missing
    other = any(flush.seq == marker.seq and flush.made != marker.made for flush in ledger)
    lost = any(after < flush.seq <= through for flush in ledger)
    return (other and scene.broken != "R20-flush") or (lost and scene.broken != "R20-missing")


def _settle_due(world: World, run: Run, scene: Scene) -> tuple[str, World, Run | None]:
    """Subtract a flush that the ledger holds beyond the marker; continue with the read if there is none."""
    due = [flush for flush in world.ledgers[run.ledger] if flush.seq > run.marker.seq]
    if not due:
        return "nothing to settle", world, run._replace(at="read")
    after = _settled(world, run, due[0], scene)
    return "settle", after, run._replace(marker=run.marker._replace(seq=due[0].seq, made=due[0].made))


def _settled(world: World, run: Run, flush: Flush, scene: Scene) -> World:
    at = world.marker
    if at is None or flush.seq <= at.seq or (at.owner != run.marker.owner and scene.broken != "R19-settle"):
        return world
    marker = Marker(flush.seq, flush.made, at.owner, run.marker.missing)
    return world._replace(marker=marker, counter=max(world.counter - flush.views, 0))


def _put(
    ledgers: tuple[tuple[Flush, ...], tuple[Flush, ...]], number: int, ledger: tuple[Flush, ...]
) -> tuple[tuple[Flush, ...], tuple[Flush, ...]]:
    return (ledger, ledgers[1]) if number == 0 else (ledgers[0], ledger)


SCENES = {
    "a restored dump": Scene(Left()),
    "a restored dump that is adopted": Scene(Left(adoptions=1)),
    "a physical copy": Scene(Left(sends=2, runs=(3, 3)), physical=True),
    "a physical copy that flushed elsewhere": Scene(Left(sends=2, elsewhere=3), physical=True),
}
BROKEN = {
    "R19-begin": "a restored dump",
    "R19-settle": "a restored dump that is adopted",
    "R20-flush": "a physical copy that flushed elsewhere",
    "R20-missing": "a physical copy",
}
