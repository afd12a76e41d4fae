"""Whether the server of the subscription is still the primary that commands go to."""

from __future__ import annotations

import time
from uuid import uuid4

from viewer_pipeline.errors import TransientError, ViewerPipelineError
from viewer_pipeline.ingest.segment_writer import SegmentWriter
from viewer_pipeline.ingest.subscription import GRACE_SECONDS, Subscription, SubscriptionLost
from viewer_pipeline.stores.redis_reconnect_on_refusal import demotion_counter_of

MAX_MISSING = 2  # checks in a row that find the subscription elsewhere
CHECK_SECONDS = 0.05  # between two attempts to write, once a server was demoted
RETRY_SECONDS = 0.5  # the same, while the address leads to a server that refuses writes


class FailoverWatch:
    """Ends a subscription, by SubscriptionLost, once it should move to the new primary."""

    def __init__(self, writer: SegmentWriter) -> None:
        self._demotion_counter = demotion_counter_of(writer.client)
        self._store, self._buffer = writer.store, writer.buffer
        self._demotions = 0  # as many as there were when the subscription began
        self._due = 0.0
        self._unnumbered_until: float | None = None  # how long a cut is awaited once writes are accepted again
        self._moved = False
        self._own_channel = ""  # no other client is subscribed to it
        self._was_here = False  # else a proxy may answer for the server, and nothing is known
        self._missing = 0  # how many checks in a row did not find the subscription
        self._ping = 0  # sent before the subscription is left; 0: none

    def test_and_clear_moved(self) -> bool:
        """Return whether this watch ended the last subscription, which was whole until then; once."""
        moved, self._moved = self._moved, False
        return moved

    def begin_with_own_channel(self, cuts_channel: str) -> str:
        """Begin with a new subscription; return the channel that it needs for the check of its location."""
        self._demotions, self._unnumbered_until = self._demotion_counter.demotions, None
        self._own_channel, self._was_here = f"{cuts_channel}:{uuid4().hex}", False
        self._missing = self._ping = 0
        return self._own_channel

    def raise_if_demoted_and_replaced(self, subscription: Subscription) -> None:
        """Leave a server that was demoted, as soon as the address leads to one that accepts writes.

        Until then the subscription is kept: it receives what is still published there. Views without a number get one
        first, by a cut, where that comes soon. Raises SubscriptionLost.
        """
        now = time.monotonic()
        if self._demotion_counter.demotions == self._demotions or now < self._due:
            return
        before, self._due = self._demotion_counter.demotions, now + CHECK_SECONDS
        try:
            self._store.require_writes()
        except TransientError:
            self._due, self._unnumbered_until, self._ping = now + RETRY_SECONDS, None, 0
            return
        if self._unnumbered_until is None or before != self._demotion_counter.demotions:
            self._unnumbered_until = now + GRACE_SECONDS
        if self._have_all_views_a_number() or now >= self._unnumbered_until:
            self._leave_after_reply(subscription, "the server of the subscription is not the primary any more")

    def check_location(self) -> None:
        """Count checks that do not find the subscription, by its own channel, on the server of the commands.

        A replica of that server relays all messages, so their arrival does not show it. But producers read from PUBLISH
        that nobody received their messages, and a count of subscribers lacks this one.
        """
        try:
            here = self._store.subscriber_counts(self._own_channel)[0] > 0
        except ViewerPipelineError:  # Redis is out of reach, or an ACL forbids the command
            return
        self._was_here |= here
        self._missing = 0 if here else self._missing + 1
        if here:
            self._ping = 0

    def raise_if_on_other_server(self, subscription: Subscription) -> None:
        """Leave a server that is not the one of the commands. Raises SubscriptionLost."""
        if self._was_here and self._missing >= MAX_MISSING and self._have_all_views_a_number():
            self._leave_after_reply(subscription, "the subscription is on another server than the commands")

    def _have_all_views_a_number(self) -> bool:
        return self._buffer.numbered or not self._buffer.view_count()

    def _leave_after_reply(self, subscription: Subscription, reason: str) -> None:
        """End it once the server has answered a PING, so that it has missed nothing.

        Else the server may have closed it long ago, with more to read than was read by now: that is a loss.
        """
        if not self._ping:
            self._ping = subscription.send_numbered_ping()
        elif subscription.has_reply_to(self._ping):
            self._moved = True
            raise SubscriptionLost("moved", reason)
