"""What a subscriber does from the request to stop until its end: nothing that it heard is to be lost."""

from __future__ import annotations

import logging
import time

from viewer_pipeline.errors import RedisFailed, TransientError
from viewer_pipeline.ingest.fold_store import NotHolder, OtherKeySpace
from viewer_pipeline.ingest.folder import FOLD_SECONDS, Folder
from viewer_pipeline.ingest.subscription import Subscription
from viewer_pipeline.logs import event

log = logging.getLogger("viewer_pipeline.subscriber")

FINISH_SECONDS = 5.0  # how long a stop waits for the messages that are on their way
INHERIT_SECONDS = 9.0  # how long it waits for the lease of a holder that died: until that is over, and some more
STOP_SECONDS = FINISH_SECONDS + INHERIT_SECONDS  # for a stop without a deadline
LEAVE_SECONDS = 1.0  # kept for folding what was heard where its cut does not come
PAUSES = (0.1, 0.5)  # first and longest one between attempts that Redis does not take


class Leaver(Folder):
    """A folder that can end in order, until `_deadline` (monotonic clock) at the latest."""

    _deadline = float("inf")
    _given_up = 0  # views that may be lost, because to fold them might count them twice

    def _finish(self, subscription: Subscription) -> None:
        """Hear what is on its way and fold it. Raises SubscriptionLost.

        Where another stands by, it goes on at the next cut, so this one must hear all that comes before it. Else this
        one hears no more first: what is published afterwards reaches nobody. While Redis does not take the cut, as in
        a failover, it is tried again until there is just time enough for `_leave`.
        """
        self._stats.enter("stopping")
        if not self._lease.holds and not self._inherit(subscription):
            return
        now, last, others, attempts = time.monotonic(), 0, False, _Attempts()
        until, idle = self._deadline - min(LEAVE_SECONDS, (self._deadline - now) / 4), now + FINISH_SECONDS
        while time.monotonic() < (until if self._buffer.total() else min(until, idle)):
            try:
                if not last and attempts.due():
                    others = self._folds.subscriber_count(self._key_space) > 1
                    if not others:
                        subscription.unsubscribe(self._channel.decode())
                    last = self._folds.cut(self._key_space, self._lease.token, self._buffer.last)
                    until = min(until, time.monotonic() + FINISH_SECONDS)
                self._receive(subscription.read(FOLD_SECONDS))
                if attempts.due():
                    self._fold()
            except TransientError as error:
                attempts.failed()
                self._refused(error)
                continue
            except NotHolder:
                self._lease.lost()
                return
            if last and self._buffer.last >= last and not self._buffer.segments:
                break
        if others and last and self._buffer.last >= last and not self._buffer.segments:
            self._drop(self._buffer.clear())
        log.info(event("unsubscribed", channel=self._channel.decode()))

    def _inherit(self, subscription: Subscription) -> bool:
        """Wait for the lease of a holder that died, if nobody else has heard what it did not fold."""
        until, attempts = time.monotonic() + INHERIT_SECONDS, _Attempts()
        while self._buffer.total() and (time.monotonic() < until or self._stats.refusal_reason):
            if self._not_ours or time.monotonic() > self._deadline - LEAVE_SECONDS:
                break
            try:
                if self._lease.due():
                    self._keep_lease()
                if self._lease.holds:
                    return True
                if attempts.due() and self._folds.subscriber_count(self._key_space) > 1:
                    return False
            except TransientError:
                attempts.failed()
            self._receive(subscription.read(FOLD_SECONDS))
        return False

    def _leave(self) -> int:
        """Fold what is left, if nobody else has it; give the lease back. Return the views that remain.

        Each segment under its own number: an attempt to fold it may have been written without an answer. Whatever
        Redis does not take now is tried again, over new connections, until the deadline.
        """
        buffer, attempts = self._buffer, _Attempts()
        while not self._hand_in():
            if time.monotonic() + attempts.pause > self._deadline:
                log.warning(event("left without an answer", views=buffer.total(), reason=self._stats.refusal_reason))
                break
            attempts.failed()
            time.sleep(attempts.pause)
        self._stats.in_memory = buffer.total()
        return buffer.total() + self._given_up

    def _hand_in(self) -> bool:
        """Try once. False where another attempt may get further."""
        buffer = self._buffer
        try:
            if not self._lease.holds and not self._take_what_nobody_else_has():
                return self._not_ours or not buffer.total()
            if buffer.total() and self._others_hear():
                self._hand_over()
                self._drop(buffer.clear())
            elif buffer.total():
                given_up = buffer.interrupted(holder=True)  # without a number, and another may have folded them
                self._given_up += given_up
                self._drop(given_up)
                number = self._folds.cut(self._key_space, self._lease.token, buffer.last)
                self._drop(buffer.cut(number, 0))
                self._fold()
            if self._lease.holds:
                self._lease.release(self._key_space)
        except NotHolder:
            self._lease.lost()
            self._drop(buffer.clear())
        except TransientError as error:
            self._refused(error)
            return not buffer.total()
        except (RedisFailed, OtherKeySpace) as error:
            log.warning(event("left without an answer", views=buffer.total(), reason=error))
        return True

    def _take_what_nobody_else_has(self) -> bool:
        """Take the lease, for views that no other subscriber heard; drop them where one did, for it folds them."""
        if not self._buffer.total():
            return False
        if self._others_hear():
            self._drop(self._buffer.clear())
            return False
        self._keep_lease()
        return self._lease.holds


class _Attempts:
    """Pauses between attempts, which get longer."""

    def __init__(self) -> None:
        self.pause, self._longest = PAUSES
        self._due = 0.0

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() >= self._due

    def failed(self) -> None:
        """Pause."""
        self._due = time.monotonic() + self.pause
        self.pause = min(self.pause * 2, self._longest)
