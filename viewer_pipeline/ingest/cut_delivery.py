"""Whether the cuts that Redis publishes arrive on the subscription.

Commands and the subscription are two connections, which may lead to two servers: the address was resolved at different
times. Then the worker is subscribed where nobody publishes any more, and its views never get the number of a segment.
"""

from __future__ import annotations

import time

from viewer_pipeline.ingest.subscription import Subscription, SubscriptionLost

GRACE_SECONDS = 3.0  # for a cut to arrive by way of a primary's replica


class CutDelivery:
    """Waits for the cuts of one subscription. It sends a PING, which the server answers behind all earlier messages.

    So a backlog, however long, is never taken for another server.
    """

    def __init__(self) -> None:
        self._number = 0  # of the awaited cut; 0: none
        self._due = 0.0
        self._pinged = False
        self._folded: int | None = None

    def on_published(self, number: int) -> None:
        """Await this cut, which was published since the subscription began, unless another is awaited."""
        if not self._number:
            self._number, self._due, self._pinged = number, time.monotonic() + GRACE_SECONDS, False

    def on_folded(self, number: int) -> None:
        """Await the cut of this segment, where the holder of the lease folded it since the last call."""
        if self._folded is not None and number > self._folded:
            self.on_published(number)
        self._folded = number

    def check(self, subscription: Subscription, last_cut: int) -> None:
        """Compare with the last received cut. Raises SubscriptionLost."""
        if not self._number:
            return
        if last_cut >= self._number:
            self._number = 0
        elif self._pinged:
            if subscription.echoed == self._number:
                reason = f"the subscription is on another server than the commands: no cut {self._number} arrived"
                raise SubscriptionLost("moved", reason)
        elif time.monotonic() >= self._due:
            subscription.ping(self._number)
            self._pinged = True
