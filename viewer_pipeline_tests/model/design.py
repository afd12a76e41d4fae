"""The design that is modelled, and the rules that it may break."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RULES = {
    "R1": "write ledger and totals in two transactions",
    "R2": "set the counter to zero instead of subtracting",
    "R3-order": "read the counters before the ledger's last seq",
    "R3-unique": "commit although another run committed above base",
    "R3-settle-first": "read the counters before batches of an earlier run are settled",
    "R4": "move the marker in a call after the subtraction",
    "R4-unmarked": "settle without comparing the marker",
    "R5": "settle a batch although its predecessor did not arrive",
    "R6": "number the flush above the ledger's last flush only",
    "R6-late": "take the base from a marker that was read after the counters",
    "R7": "commit views that no replica has",
    "R8": "repeat a COMMIT whose reply was lost",
    "R11": "commit although Redis refuses writes",
    "R16-skip": "do not hold what is found behind a batch that was skipped",
    "R16-end": "end what is held although Redis fell back after the run had begun",
    "R18": "settle a flush that no standby has",
    "R18-earlier": "settle what an earlier run left before a standby has it",
    "ADR2": "accept the first batch of any later flush after a complete one",
}


@dataclass(frozen=True)
class Design:
    """The measures of the protocol, one for each field.

    epoch: the marker is created with a random epoch, which a flush carries; a settling script is refused if the
        marker has another epoch than its sender knows; a batch of another epoch than the marker's is skipped.
    recheck: after the last counter was read, the run reads the marker again and discards the snapshot if it differs:
        "epoch": the marker was recreated or has another epoch; "position": or it is before the batch that the run
        settled last; "server": or another server (its run_id) replies.
    line: PostgreSQL has an id of its own history (a new one after it was rolled back). A run reads it with the last
        seq; begin writes it into the marker, replacing only a line that the run saw there before it read the ledger;
        a commit or a settling script under another line is refused.
    history: a marker has the id of its flush, and the numbers of the flushes that its ledger had lost; a run is
        refused if the ledger has another flush under that number, or one of the lost ones.
    after: a commit is refused as superseded if the flush that was the newest when the run began is gone.
    hold: R16: a marker that is created where the ledger has flushes is marked, and so is one that skips a batch of
        another epoch. Until a run that began afterwards has committed and settled all counters, each run holds of
        every counter as many views as were ever counted of that VOD.
    wait: R7: the counters that were read are on the replica before they are committed.
    standby: R18: the standby of PostgreSQL (in the model: the dump) has a flush before it is settled.
    broken: the rule of RULES that is broken, if any.
    """

    epoch: bool = True
    recheck: Literal["", "epoch", "position", "server"] = "server"
    line: bool = True
    history: bool = True
    after: bool = True
    hold: bool = True
    wait: bool = False
    standby: bool = False
    broken: str = ""


# The design of the code: test_rehearsal.py compares both. A measure that the code takes belongs here as well. The code
# detects another server by its connection, which the disasters of the rehearsal do not break.
CODE = Design(recheck="position")
BEFORE = Design(epoch=False, recheck="", line=False, history=False, after=False, hold=False)  # the first design
