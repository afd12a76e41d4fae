"""How far a sweep has come: one run stores the position, and the next one continues there. Pure.

A *pass* reads all counters once: from cursor 0 of SCAN until it returns 0, in one run or in several. No count depends
on a position. It decides only which counters are read next, and when the pass is complete.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple, Self

from viewer_pipeline.stores.redis import as_text

CURSOR_BITS = 64
NO_HOLD = "-"
INCOMPLETE = "incomplete"  # in place of `hold`: of a pass that has missed counters, and completes nothing at its end
_nodes = re.compile(r"cluster/([0-9]{1,4})/").match
_parse = re.compile(rb"([0-9]{1,25}) ([0-9]{1,14}) (\S+) (\S+) (\S+) (\S+) ?(.*)", re.DOTALL).fullmatch


class SweepPosition(NamedTuple):
    """All counters before `cursor` that existed when the pass began were committed and settled since.

    Valid for one process of Redis, because the order of SCAN is another in each, and for one epoch, ledger and
    `hold` of the marker. A position is true on its own, whichever run stores it, and when.
    """

    cursor: int  # 0: the beginning of a pass. In a cluster, the number of the node is above CURSOR_BITS
    began_ms: int  # by the clock of Redis
    server: str  # run_id of the process of Redis; empty if it is not known
    epoch: str
    ledger: str
    request: bytes = b""  # the request for a sweep that the pass fulfils, as it was when the pass began; empty if none
    hold: str = ""  # of the marker

    @classmethod
    def parse(cls, raw: bytes) -> Self | None:
        """Return the position from the field of the hash; None for anything else."""
        if not (match := _parse(raw)):
            return None
        server, epoch, ledger, hold = map(as_text, match.group(3, 4, 5, 6))
        hold = "" if hold == NO_HOLD else hold
        position = cls(int(match[1]), int(match[2]), server, epoch, ledger, match[7], hold)
        return position if 0 < position.cursor < position.nodes << CURSOR_BITS else None

    def encode(self) -> bytes:
        """Return the field of the hash."""
        numbers_and_names = (
            f"{self.cursor} {self.began_ms} {self.server} {self.epoch} {self.ledger} {self.hold or NO_HOLD} "
        )
        return numbers_and_names.encode() + self.request

    def invalid_reason(self, now: SweepPosition) -> str:
        """Return why a sweep that would begin at `now` cannot continue here; empty if it can."""
        if self.server != now.server:
            return "Redis was restarted or replaced since"
        if self.epoch != now.epoch:
            return "Redis was emptied since"
        if self.ledger != now.ledger:
            return "the counters were given to another ledger since"
        if self.hold not in (now.hold, INCOMPLETE):
            return "Redis fell back to another state since"
        return ""

    @property
    def nodes(self) -> int:
        """How many nodes are scanned one after the other."""
        return int(match[1]) if (match := _nodes(self.server)) else 1

    @property
    def began(self) -> datetime:
        """When the pass began."""
        return datetime.fromtimestamp(self.began_ms / 1000, UTC)

    @property
    def share(self) -> float:
        """The share of the keys that is scanned, from 0 to 1.

        SCAN increments its cursor from the highest bit to the lowest, so that it stays valid when the table grows.
        """
        node, cursor = divmod(self.cursor, 2**CURSOR_BITS)
        scanned = int(f"{cursor:0{CURSOR_BITS}b}"[::-1], 2) / float(2**CURSOR_BITS)
        return float(node + scanned) / self.nodes


class SweepPart(NamedTuple):
    """The part of a pass that one run reads: from the cursor of `begin` up to that of `end`, which is 0 after the last.

    `stored`: the field of the hash as it was read before the first counter.
    """

    stored: bytes
    begin: SweepPosition
    end: SweepPosition

    def incomplete(self) -> SweepPart:
        """Return the part of a pass that continues, and completes nothing: counters may have been missed."""
        begin, end = (at._replace(request=b"", hold=INCOMPLETE) for at in (self.begin, self.end))
        return self._replace(begin=begin, end=end)

    @property
    def is_last(self) -> bool:
        """Whether the pass is complete once this part is committed."""
        return self.end.cursor == 0
