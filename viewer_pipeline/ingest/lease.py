"""The lease of one subscriber: whose turn it is to fold."""

from __future__ import annotations

import os
import socket
import time
from uuid import uuid4

from viewer_pipeline.ingest.fold_store import FoldStore, LeaseRequest, LeaseResult
from viewer_pipeline.ingest.ledger_lookup import LedgerLookup
from viewer_pipeline.ingest.segment_buffer import SegmentBuffer

LEASE_MS = 6000  # a holder that is not heard of for so long has lost it
LEASE_SECONDS = 1.5  # how often it is kept, and tried for
GRACE_MS = 2000  # how long one that came late lets others go first: longer than their LEASE_SECONDS
YIELD_SECONDS = 4.0  # how long one that gave it back lets others go first, those that came late too


class LeaseKeeper:
    """Keeps the lease, or tries to take it, every LEASE_SECONDS.

    A token is used for one holding only: what was sent under an old one counts no more.
    """

    def __init__(self, folds: FoldStore, own: LedgerLookup) -> None:
        self.token = uuid4().hex
        self.holds = False
        self._folds, self._own = folds, own
        self._who = f"{socket.gethostname()}:{os.getpid()}"
        self._due = 0.0
        self._term = 0

    def due(self) -> bool:
        """Whether it is time for `keep`."""
        return time.monotonic() >= self._due

    def expire_soon(self) -> None:
        """Make `keep` due, unless this one holds the lease."""
        if not self.holds:
            self._due = 0.0

    def renew_now(self) -> None:
        """Make `keep` due: Redis refused a command, and a new subscription must not pass for one that works."""
        self._due = 0.0

    def keep(self, key_space: str, buffer: SegmentBuffer, last_message: float | None) -> LeaseResult:
        """Keep the lease or try to take it. `kept` means that nobody else had it since the last call.

        Raises OtherKeySpace; TransientError where Redis does not answer, or PostgreSQL has not said which ledger this
        is: nothing changes then; PipelineRefused where the counters belong to another ledger.
        """
        self._due = time.monotonic() + LEASE_SECONDS
        for _ in range(2):
            known = self._term
            last_message_ms = int(1000 * (last_message or 0))
            own = self._own.identity
            claim = LeaseRequest(
                key_space, self.token, self._who, known, buffer.complete_after, last_message_ms, buffer.done(), own
            )
            lease = self._folds.acquire_or_renew(claim, LEASE_MS, GRACE_MS)
            self._term = lease.term
            if lease.outcome != "held_by_other":
                break
            self.lost()
            if lease.term == known:  # else it may be free, for one that knows
                return lease
        else:
            return lease
        before, self.holds = self.holds, True
        return (
            lease if before else lease._replace(outcome="acquired")
        )  # the answer to the attempt that took it was lost

    def release(self, key_space: str) -> None:
        """Give it back, and let others go first. Raises TransientError: then it runs out by itself."""
        self._due = time.monotonic() + YIELD_SECONDS
        token = self.token
        self.lost()
        self._folds.release(token, key_space)

    def lost(self) -> None:
        """Another holds it."""
        if self.holds:
            self.holds, self.token = False, uuid4().hex
