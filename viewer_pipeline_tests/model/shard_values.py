"""The values of the model of shards (shards.py): immutable, and equal if the states are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeVar

T = TypeVar("T")
Views = tuple[int, ...]  # by VOD
Rules = frozenset[str]
NO_HOLD = 0


class Marker(NamedTuple):
    """The last batch that was subtracted. `of`: the timeline in which its flush was committed.

    hold: the number of the occasion on which views came in that may have been counted before. missing: as in the code.
    """

    seq: int = 0
    batch: int = 0
    epoch: int = 1
    timeline: int = 0
    of: int = 0
    hold: int = NO_HOLD
    missing: tuple[int, int] = (0, 0)

    @property
    def at(self) -> tuple[int, int]:
        """The position in the ledger."""
        return self.seq, self.batch


class Shard(NamedTuple):
    """A marker, and where its keys are.

    moved: while the shard migrates, whether each key is at the target: the marker, then the counters.
    """

    marker: Marker | None = Marker()
    process: int = 0  # of the server: another one after a failover
    lineage: int = 0  # how often it was emptied
    phase: Literal["source", "migrates", "target"] = "source"
    moved: tuple[bool, ...] = ()

    def at_target(self, key: int) -> bool:
        """Whether a key is at the target of the migration."""
        return self.moved[key] if self.phase == "migrates" else self.phase == "target"


class Row(NamedTuple):
    """Views that were read, and the epoch of the marker that the script returned with them."""

    shard: int
    vod: int
    delta: int
    epoch: int
    held: bool = False


class Batch(NamedTuple):
    """One counter of a flush, which one settling script subtracts."""

    seq: int
    number: int
    shard: int
    vod: int
    delta: int
    epoch: int
    timeline: int

    @property
    def at(self) -> tuple[int, int]:
        """The position in the ledger."""
        return self.seq, self.number


class Flush(NamedTuple):
    """A row of the ledger with its batches."""

    seq: int
    timeline: int
    held: bool
    batches: tuple[Batch, ...]


class Settling(NamedTuple):
    """Batches to settle: to list from the ledger, or known already if they are the run's `own`.

    known: the marker of each shard, None if it is not concerned. left: the shards to list. now: batches that may be
    sent in any order, one of a shard; due: those after them. refused: shards whose marker was elsewhere, with that
    marker; unchecked: those of them whose history the next list compares.
    """

    at: Literal["list", "standby", "settle", "move", "done"]
    known: tuple[Marker | None, ...]
    through: int
    left: tuple[int, ...] = ()
    now: tuple[Batch, ...] = ()
    due: tuple[Batch, ...] = ()
    own: bool = False
    refused: tuple[tuple[int, Marker | None], ...] = ()
    unreached: tuple[int, ...] = ()
    unchecked: tuple[int, ...] = ()


Outcome = Settling | Literal["failed"]
Hold = tuple[int, int] | None  # epoch and `hold` of a marker


class Run(NamedTuple):
    """A run: its next step and its state. Tuples of markers, views, servers and holds are by shard.

    targets: whether the run expects a shard at the target of its migration. servers: the process that it has read from.
    left_out: shards that did not answer. pending: those to read, and later to wait for or to clear. began: the timeline
    when it began to read counters. seen: a timeline that `drain` may replace. complete: it is a sweep that has missed
    nothing. settler: settles the run's own flush beside the next transaction;
    committed: the flush that waits for it.
    """

    shards: tuple[int, ...]
    cut: int = 2  # counters in one transaction
    at: str = "read ledger"
    targets: tuple[bool, ...] = ()
    servers: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()
    pending: tuple[int, ...] = ()
    after: Flush | None = None
    base: int = 0
    floor: int = 0
    timeline: int = 0
    began: int = 0
    seen: tuple[int, ...] = ()
    prepares: bool = False  # it reads all markers, and no counter
    complete: bool = True
    known: tuple[Marker | None, ...] = ()
    read: tuple[Views | None, ...] = ()
    rows: tuple[Row, ...] = ()
    settling: Settling | None = None
    holds: tuple[Hold, ...] = ()
    settler: Settling | Literal["failed"] | None = None
    committed: Flush | None = None
    tries: int = 2  # superseded at the last one, it drains and ends

    @property
    def last(self) -> int:
        """The number of the ledger's newest flush when the run read it."""
        return self.after.seq if self.after else 0


ENDED = Run((), at="ended")


class Left(NamedTuple):
    """The events that may still happen."""

    sends: int = 0
    crashes: int = 0
    resent: int = 0
    migrations: int = 0
    emptied: int = 0
    copies: int = 0
    restored: int = 0
    unreplicated: int = 0  # the target of a migration fails over to a replica that lacks some of the migrated keys
    dumps: int = 0
    rolled_back: int = 0


class Setting(NamedTuple):
    """What is explored.

    wait: R7 is in use; standby: R18 is. bare: the copy at hand has no marker; lost: its shard fell back to it after a
    flush. numbers: a number that is given again violates the law, too. traced: calls that decide nothing are steps,
    too.
    """

    left: Left = Left()
    shard_of: tuple[int, ...] = (0, 1)  # by VOD
    runs: tuple[tuple[int, ...], ...] = ((0, 1), (0, 1))  # the shards that each run reads
    cuts: tuple[int, ...] = (2,)
    wait: bool = False
    standby: bool = False
    bare: bool = False
    lost: bool = False
    numbers: bool = True
    traced: bool = False
    sends_to: tuple[int, ...] = (0, 1)
    events_at: tuple[int, ...] = (0, 1)

    def vods(self, shard: int) -> list[int]:
        """Return the VODs whose counters are in a shard."""
        return [vod for vod, at in enumerate(self.shard_of) if at == shard]

    def key(self, vod: int) -> int:
        """Return the number of a counter's key in its shard; 0 is the marker."""
        return 1 + self.vods(self.shard_of[vod]).index(vod)


class Postgres(NamedTuple):
    """Ledger, totals and held views, which change together."""

    ledger: tuple[Flush, ...]
    totals: Views
    held: Views

    @property
    def newest(self) -> Flush | None:
        """The newest flush."""
        return self.ledger[-1] if self.ledger else None

    @property
    def stored(self) -> Views:
        """The views that were ever counted."""
        return tuple(map(sum, zip(self.totals, self.held, strict=True)))


class Copy(NamedTuple):
    """A copy of one shard."""

    shard: int
    marker: Marker | None
    lineage: int
    counters: Views
    incremented: Views


class World(NamedTuple):
    """Both stores, older copies of them, the runs, and the bounds of the law."""

    shards: tuple[Shard, ...]
    counters: Views
    incremented: Views  # the views that ever arrived, as far as this Redis has them
    postgres: Postgres
    dump: Postgres
    runs: tuple[Run, ...]
    holds: tuple[Hold, ...]
    sent: Views
    lower: Views
    upper: Views
    left: Left
    copy: Copy | None = None
    timeline: int = 0
    prepared: int = 0  # the timeline for which all shards have a marker
    floor: int = 0
    epochs: int = 1


Steps = Iterator[tuple[str, World, Run]]


def put(row: tuple[T, ...], at: int, value: T) -> tuple[T, ...]:
    """Return the row with another value at one place."""
    return (*row[:at], value, *row[at + 1 :])


def with_shard(world: World, number: int, marker: Marker | None) -> World:
    """Return the world with another marker in a shard."""
    return world._replace(shards=put(world.shards, number, world.shards[number]._replace(marker=marker)))
