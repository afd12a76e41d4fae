"""The marker in Redis: the last batch that was subtracted from the counters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from viewer_pipeline.errors import MarkerUnreadable
from viewer_pipeline.flush.ledger_row_types import Batch
from viewer_pipeline.stores.redis import as_text

# Of the hash, in the order in which the scripts return them.
MARKER_FIELDS = ("flush", "batch", "batches", "epoch", "flush_id", "ledger", "missing", "timeline", "hold")
NONE_MISSING = (0, 0)
MAX_SEQ = 2**53  # Lua's numbers are exact up to here
_text = lru_cache(maxsize=256)(as_text)  # the markers of a cluster have few different names


class Marker(NamedTuple):
    """The last batch that was subtracted: `batch` of the `of` batches of flush `seq`.

    `epoch` is created with the marker: another one means that Redis was emptied in between. `ledger` is the ledger
    whose batches are subtracted, `flush_id` the id of its flush `seq`.
    """

    seq: int
    batch: int
    of: int
    epoch: str = ""
    flush_id: str = ""
    ledger: str = ""
    # Flushes above the first number, through the second, that the ledger lacked when Redis was last settled, because
    # it had been restored from a backup.
    missing_flushes: tuple[int, int] = NONE_MISSING
    timeline: str = ""  # of PostgreSQL, when the run that began last had read its ledger
    # The name of the occasion on which views came in that may have been counted before; empty if none did. Removed by
    # a sweep that began after that (rule R16).
    hold: str = ""

    def at(self, batch: Batch, hold: str | None = None) -> Marker:
        """Return the marker after this batch was subtracted; with another `hold`, unless that is None."""
        position, names = (batch.seq, batch.number, batch.of, self.epoch, batch.flush_id), self[5:8]
        return Marker(*position, *names, self.hold if hold is None else hold)


def parse_marker(fields: Sequence[bytes | None]) -> Marker | None:
    """Return the marker from the values of MARKER_FIELDS; None if there is none. Raises MarkerUnreadable."""
    flush, number, batches, epoch, flush_id, ledger, missing, timeline, hold = fields
    if flush is number is batches is None:
        return None
    try:
        seq, batch, of = int(flush or b""), int(number or b""), int(batches or b"")
        after, through = map(int, missing.split()) if missing else NONE_MISSING
    except ValueError:
        raise MarkerUnreadable(f"flush, batch, batches, missing = {[flush, number, batches, missing]!r}") from None
    if seq > MAX_SEQ:
        raise MarkerUnreadable(f"flush = {seq}: no ledger comes as far")
    names = _text(epoch), _text(flush_id), _text(ledger)
    return Marker(seq, batch, of, *names, (after, through), _text(timeline), _text(hold))
