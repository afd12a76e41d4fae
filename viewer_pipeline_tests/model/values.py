"""The values that a state of the model consists of: immutable, and equal if the states are."""

from __future__ import annotations

from typing import Literal, NamedTuple

Views = tuple[int, ...]  # by VOD


class Marker(NamedTuple):
    """The last batch that was subtracted; the counters (`epoch`), and the history of the ledger (`line`)."""

    seq: int = 0
    batch: int = 0
    of: int = 0
    epoch: int = 1
    line: int = 0
    by: int = 0  # distinguishes flushes with the same number
    missing: tuple[int, int] = (0, 0)  # flushes that the ledger had lost when Redis was last settled
    hold: tuple[int, int] = (0, 0)  # where views came in that may have been counted before; (0, 0): none did


class Batch(NamedTuple):
    """One counter of a flush, which one settling script subtracts."""

    seq: int
    number: int
    of: int
    vod: int
    delta: int
    epoch: int
    by: int = 0


class Flush(NamedTuple):
    """One row of the ledger with its batches."""

    seq: int
    batches: tuple[Batch, ...]
    by: int = 0  # distinguishes flushes if runs are numbered
    held: bool = False  # its views are held, and not in the totals


class Redis(NamedTuple):
    """Counters and marker. The other fields are for the law and for clients that reconnect."""

    counters: Views
    marker: Marker | None
    incremented: Views  # the views that ever arrived in the counters of this Redis
    lineage: int = 0  # the number of times it was emptied
    life: int = 0  # of the server: a new one after each restart or failover
    refuses: bool = False  # writes


class Postgres(NamedTuple):
    """Ledger, totals and held views, which change together."""

    ledger: tuple[Flush, ...]
    totals: Views
    line: int = 0  # its history: a new one after it was rolled back
    held: Views = ()  # views that may have been counted before


class Settling(NamedTuple):
    """Batches to settle: listed from the ledger, or known already if they are the run's `own`."""

    at: Literal["list", "settle", "move", "read marker"]
    known: Marker
    through: int
    due: tuple[Batch, ...] = ()
    own: bool = False
    refused: bool = False
    replicated: bool = False  # the standby has the batches that are due


class Run(NamedTuple):
    """A run: its next step and its state."""

    at: str = "read ledger"
    cut: int = 0  # counters in one transaction; 0: not chosen yet
    last: tuple[int, int] = (0, 0)  # the ledger's newest flush: seq, number of batches
    base: int = 0
    after: Flush | None = None  # the ledger's newest flush then
    marker: Marker = Marker()
    life: int = 0
    line: int = 0
    instead: int = -1  # the line in the marker that begin may replace
    read: Views = ()
    rows: tuple[tuple[int, int, bool], ...] = ()  # not committed yet: (vod, delta, whether it is to be held)
    settling: Settling | None = None  # before the read
    settler: Settling | Literal["failed"] | None = None  # beside the transactions
    committed: Flush | None = None  # and not passed to the settler yet
    tries: int = 2  # commits that it may still try; superseded at the last one, it drains and ends
    number: int = 0  # of the run, if runs are numbered
    sweeps: bool = True  # it may remove `hold` from the marker
    hold: tuple[int, int] = (0, 0)  # of the marker, before the first counter was read


ENDED = Run("ended")


class Left(NamedTuple):
    """The events that may still happen."""

    sends: int = 0
    crashes: int = 0
    emptied: int = 0
    copies: int = 0
    restored: int = 0
    dumps: int = 0
    rolled_back: int = 0
    lost_replies: int = 0
    resent: int = 0


class World(NamedTuple):
    """Both servers, older copies of them, the runs, and the bounds of the law."""

    redis: Redis
    postgres: Postgres
    runs: tuple[Run, ...]
    copy: Redis
    dump: Postgres
    sent: Views
    lower: Views  # at least these views must exist, and at most `upper`: see `law`
    upper: Views
    left: Left
    epochs: int = 1


class Step(NamedTuple):
    """A call, and the actor that makes it."""

    actor: str
    call: str
    vod: int = -1

    def __str__(self) -> str:
        """Render for a trace."""
        return f"{self.actor}: {self.call}" + (f" {self.vod}" if self.vod >= 0 else "")


FIRST = Marker()


def start(
    vods: int, runs: int, left: Left, *, marker: Marker | None = FIRST, refuses: bool = False, numbered: bool = False
) -> World:
    """Return a world where each VOD has one view in Redis."""
    ones, zeros = (1,) * vods, (0,) * vods
    redis, postgres = Redis(ones, marker, ones, refuses=refuses), Postgres((), zeros, held=zeros)
    return World(
        redis,
        postgres,
        tuple(Run(number=n if numbered else 0) for n in range(runs)),
        redis,
        postgres,
        ones,
        ones,
        ones,
        left,
    )
