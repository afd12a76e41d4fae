"""Which design is modelled, and the rules that it may break."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RULES = {
    "R1": "write ledger and totals in two transactions",
    "R2": "set the counter to nothing instead of subtracting",
    "R3-order": "read the counters before the ledger's last seq",
    "R3-unique": "commit although another run committed above base",
    "R3-settle-first": "read the counters before what an earlier run left is settled",
    "R4": "move the marker in a call after the subtraction",
    "R4-unmarked": "settle without looking at the marker",
    "R5": "settle a batch although the one before it did not arrive",
    "R6": "number the flush above the ledger's last only",
    "R6-late": "take the marker for the base after the counters were read",
    "R7": "commit what no replica has",
    "R8": "repeat a COMMIT whose answer was lost",
    "R11": "commit although Redis refuses writes",
    "ADR2": "take the first batch of any later flush for the successor of a complete one",
}


@dataclass(frozen=True)
class Design:
    """What the protocol does; each field is one measure.

    epoch: the marker is made with a random epoch, which a flush carries; a settling script is refused where the
        marker has another epoch than its sender knows; a batch of another epoch than the marker's is passed over.
    recheck: after the last counter was read, the run calls begin again and drops the snapshot where the answer is
        another: "epoch": the marker was made anew or has another epoch; "position": or stands before where the run
        settled to; "server": or another server (its run_id) answers.
    line: PostgreSQL tells by which history of its own it holds the ledger (another one after it was rolled back). A run
        reads it with the last seq; begin writes it into the marker, in place of one only that the run saw there before
        it read the ledger; a commit or a settling script under another one is refused.
    history: a marker has the id of the flush at which it stands, and which flushes its ledger had lost; a run is
        refused where the ledger has another flush under that number, or one of those.
    after: a commit is refused as superseded where the flush that was the newest when the run began is gone.
    wait: R7: what was read is on the replica before it is committed.
    broken: the rule of RULES that is broken, if any.
    """

    epoch: bool = True
    recheck: Literal["", "epoch", "position", "server"] = "server"
    line: bool = True
    history: bool = True
    after: bool = True
    wait: bool = False
    broken: str = ""


# What the code does: the tie holds it to this. A measure that the code takes belongs here as well. That another server
# answers, it knows by its connection, which the disasters of the tie leave alone.
CODE = Design(recheck="position", line=False)
BEFORE = Design(epoch=False, recheck="", line=False, history=False, after=False)  # the first edition
