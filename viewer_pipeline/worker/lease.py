"""The lease of one subscriber: whose turn it is to fold."""

from __future__ import annotations

import os
import socket
import time
from uuid import uuid4

from viewer_pipeline.counting.folds import FoldStore, Lease

LEASE_MS = 6000  # a holder that is not heard of for so long has lost it
LEASE_SECONDS = 1.5  # how often it is kept, and tried for
YIELD_SECONDS = 2.0  # how long one that gave it back lets others go first


class LeaseKeeper:
    """Keeps the lease, or tries to take it, every LEASE_SECONDS.

    A token is used for one holding only: what was sent under an old one counts no more.
    """

    def __init__(self, folds: FoldStore) -> None:
        self.token = uuid4().hex
        self.holds = False
        self._folds = folds
        self._who = f"{socket.gethostname()}:{os.getpid()}"
        self._due = 0.0

    def due(self) -> bool:
        """Whether it is time for `keep`."""
        return time.monotonic() >= self._due

    def hurry(self) -> None:
        """Make `keep` due, unless this one holds the lease."""
        if not self.holds:
            self._due = 0.0

    def keep(self, last_message: float | None) -> Lease:
        """Keep the lease or try to take it. Raises TransientError where Redis does not answer: nothing changes then."""
        self._due = time.monotonic() + LEASE_SECONDS
        lease = self._folds.lease(self.token, LEASE_MS, self._who, int(1000 * (last_message or 0)))
        if lease.outcome == "other":
            self.lost()
        else:
            self.holds = True
        return lease

    def release(self, cuts_id: str) -> None:
        """Give it back, and let others go first. Raises TransientError: then it runs out by itself."""
        self._due = time.monotonic() + YIELD_SECONDS
        token = self.token
        self.lost()
        self._folds.release(token, cuts_id)

    def lost(self) -> None:
        """Another holds it."""
        if self.holds:
            self.holds, self.token = False, uuid4().hex
