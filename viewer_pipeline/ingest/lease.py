"""The lease of one worker, which decides whether this worker folds."""

from __future__ import annotations

import os
import socket
import time
from uuid import uuid4

from viewer_pipeline.ingest.ledger_identity_lookup import LedgerIdentityLookup
from viewer_pipeline.ingest.segment_buffer import SegmentBuffer
from viewer_pipeline.ingest.subscriber_scripts import LeaseRequest, LeaseResult, LedgerUnknown, SubscriberScripts

LEASE_MS = 6000  # a holder that does not renew the lease for so long loses it
LEASE_SECONDS = 1.5  # between two attempts to renew or acquire it
GRACE_MS = 2000  # how long a worker that came late lets others go first: longer than their LEASE_SECONDS
YIELD_SECONDS = 4.0  # how long a worker that released it lets others go first, those that came late too


class LeaseKeeper:
    """Renews the lease, or tries to acquire it, every LEASE_SECONDS.

    Each term has its own fencing token: Redis refuses what was sent under an older one.
    """

    def __init__(self, scripts: SubscriberScripts, ledger: LedgerIdentityLookup) -> None:
        self.fencing_token = uuid4().hex
        self.held = False
        self._scripts, self._ledger = scripts, ledger
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._due = 0.0
        self._term = 0
        self.node = ""  # of a cluster, at which this worker is subscribed; empty while it is not

    def is_due(self) -> bool:
        """Whether it is time for `acquire_or_renew`."""
        return time.monotonic() >= self._due

    def make_due_unless_held(self) -> None:
        """Make `acquire_or_renew` due, because the lease may be free soon, unless this worker holds it."""
        if not self.held:
            self._due = 0.0

    def make_due(self) -> None:
        """Make the next attempt due: Redis refused a command, so a new subscription must not pass for a working one."""
        self._due = 0.0

    def acquire_or_renew(self, key_space: str, buffer: SegmentBuffer, last_message: float | None) -> LeaseResult:
        """Renew the lease or try to acquire it. `renewed` means that no other worker held it since the last call.

        Raises KeySpaceChanged, SubscribedElsewhere; TransientError where Redis does not answer, or PostgreSQL has not
        replied which ledger it has: nothing changes then; PipelineRefused where the counters belong to another ledger.
        """
        self._due = time.monotonic() + LEASE_SECONDS
        for _ in range(2):
            known = self._term
            received = buffer.complete_after, int(1000 * (last_message or 0)), buffer.nothing_to_fold_through()
            token, ledger = self.fencing_token, self._ledger.identity
            request = LeaseRequest(key_space, token, self._worker, known, *received, ledger, self.node)
            try:
                result = self._scripts.acquire_or_renew_lease(request, LEASE_MS, GRACE_MS)
            except LedgerUnknown:
                self._ledger.require_readable()
                raise
            self._term = result.term
            if result.outcome != "held_by_other":
                break
            self.mark_lost_and_draw_token()
            if result.term == known:  # else it may be free, for a worker that knows the newest term
                return result
        else:
            return result
        held_before, self.held = self.held, True
        # Else the reply to the attempt that acquired it was lost.
        return result if held_before else result._replace(outcome="acquired")

    def release(self, key_space: str) -> None:
        """Release it, and let others go first. Raises TransientError: then it expires by itself."""
        self._due = time.monotonic() + YIELD_SECONDS
        token = self.fencing_token
        self.mark_lost_and_draw_token()
        self._scripts.release_lease(token, key_space)

    def mark_lost_and_draw_token(self) -> None:
        """Note that another worker holds it, and draw a new fencing token."""
        if self.held:
            self.held, self.fencing_token = False, uuid4().hex
