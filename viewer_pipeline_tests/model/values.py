"""What a state of the model consists of: frozen values, equal where the states are."""

from __future__ import annotations

from typing import Literal, NamedTuple

Views = tuple[int, ...]  # by VOD


class Marker(NamedTuple):
    """How far counters were lowered; which counters they are (`epoch`), and by which history of the ledger (`line`)."""

    seq: int = 0
    batch: int = 0
    of: int = 0
    epoch: int = 1
    line: int = 0
    by: int = 0  # tells flushes under the same number apart
    missing: tuple[int, int] = (0, 0)  # flushes that the ledger had lost when Redis was settled last


class Batch(NamedTuple):
    """One counter of a flush: what one settling script subtracts."""

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
    by: int = 0  # tells flushes apart where runs are numbered


class Redis(NamedTuple):
    """Counters and marker. The rest only the law and a reconnecting client know."""

    counters: Views
    marker: Marker | None
    incremented: Views  # the views that ever came in, as far as this Redis remembers them
    lineage: int = 0  # how often it was emptied
    life: int = 0  # of the server: another one after each restart or failover
    refuses: bool = False  # writes


class Postgres(NamedTuple):
    """Ledger and totals, which change together."""

    ledger: tuple[Flush, ...]
    totals: Views
    line: int = 0  # its history: another one after it was rolled back


class Settling(NamedTuple):
    """Batches on their way to Redis: listed from the ledger or, where they are the run's `own`, known already."""

    at: Literal["list", "settle", "move", "ask"]
    known: Marker
    through: int
    due: tuple[Batch, ...] = ()
    own: bool = False
    refused: bool = False


class Run(NamedTuple):
    """One run: what it does next and what it remembers."""

    at: str = "look"
    cut: int = 0  # counters in one transaction; 0: not chosen yet
    last: tuple[int, int] = (0, 0)  # the ledger's newest flush: seq, number of batches
    base: int = 0
    after: Flush | None = None  # the ledger's newest flush then
    marker: Marker = Marker()
    life: int = 0
    line: int = 0
    instead: int = -1  # the line in the marker that begin may replace
    read: Views = ()
    rows: tuple[tuple[int, int], ...] = ()  # what is still to be committed: (vod, delta)
    settling: Settling | None = None  # before the read
    settler: Settling | Literal["failed"] | None = None  # beside the transactions
    committed: Flush | None = None  # and not given to the settler yet
    tries: int = 2  # commits that it may still try; superseded at the last one, it drains and leaves it
    number: int = 0  # of the run, where they are told apart


ENDED = Run("ended")


class Left(NamedTuple):
    """What may still happen."""

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
    """Both servers, older copies of them, the runs, and what the law needs to know."""

    redis: Redis
    postgres: Postgres
    runs: tuple[Run, ...]
    copy: Redis
    dump: Postgres
    sent: Views
    lower: Views  # so many views there must be, and no more than `upper`: docs of `law`
    upper: Views
    left: Left
    epochs: int = 1


class Step(NamedTuple):
    """Who made which call."""

    who: str
    what: str
    vod: int = -1

    def __str__(self) -> str:
        """Read well in a trace."""
        return f"{self.who}: {self.what}" + (f" {self.vod}" if self.vod >= 0 else "")


FIRST = Marker()


def start(
    vods: int, runs: int, left: Left, *, marker: Marker | None = FIRST, refuses: bool = False, numbered: bool = False
) -> World:
    """Return a world where each VOD has one view in Redis."""
    one, none = (1,) * vods, (0,) * vods
    redis, postgres = Redis(one, marker, one, refuses=refuses), Postgres((), none)
    return World(
        redis,
        postgres,
        tuple(Run(number=n if numbered else 0) for n in range(runs)),
        redis,
        postgres,
        one,
        one,
        one,
        left,
    )
