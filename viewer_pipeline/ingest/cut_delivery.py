"""Whether the cuts that Redis takes arrive on the subscription.

Commands and the subscription are two connections, which may lead to two servers: the address was resolved at different
times. Then the subscriber hears what nobody publishes any more, and its views never get the number of a segment.
"""

from __future__ import annotations

import time

from viewer_pipeline.ingest.fold_store import FoldStore
from viewer_pipeline.ingest.subscription import Subscription, SubscriptionLost

MISSING = 2  # times in a row
GRACE_SECONDS = 3.0  # for a cut to come by way of a primary's replica


class SubscriptionLocation:
    """Whether a subscription is on the server that commands go to. Shown by a channel that nobody else is on.

    A replica of that server passes all messages on, so what arrives does not show it. But producers are told that
    nobody received their messages, and who counts subscribers misses this one.
    """

    def __init__(self, folds: FoldStore, channel: str) -> None:
        self.channel = channel
        self._folds = folds
        self._was_here = False  # else something in between answers for the server, and nothing can be told
        self._missing = 0  # how often in a row it was not

    def is_elsewhere(self) -> bool:
        """Ask; true where it was here, and was not at the last two times. Raises RedisUnavailable."""
        here = self._folds.numsub(self.channel) > 0
        self._was_here |= here
        self._missing = 0 if here else self._missing + 1
        return self._was_here and self._missing >= MISSING


class CutDelivery:
    """Waits for the cuts of one subscription. Asks by a PING, which the server answers behind all earlier messages.

    So a backlog, however long, is never taken for another server.
    """

    def __init__(self) -> None:
        self._number = 0  # of the cut that is waited for; 0: none
        self._due = 0.0
        self._asked = False
        self._folded: int | None = None

    def published(self, number: int) -> None:
        """Wait for this cut, which was made since the subscription began, unless another is waited for."""
        if not self._number:
            self._number, self._due, self._asked = number, time.monotonic() + GRACE_SECONDS, False

    def folded(self, number: int) -> None:
        """Wait for the cut of this segment, where the holder of the lease folded it since the last call."""
        if self._folded is not None and number > self._folded:
            self.published(number)
        self._folded = number

    def check(self, subscription: Subscription, last: int) -> None:
        """Compare with the last cut that was heard. Raises SubscriptionLost."""
        if not self._number:
            return
        if last >= self._number:
            self._number = 0
        elif self._asked:
            if subscription.echoed == self._number:
                raise SubscriptionLost(
                    "moved", f"the subscription is on another server than the commands: cut {self._number} did not come"
                )
        elif time.monotonic() >= self._due:
            subscription.ping(self._number)
            self._asked = True
