"""From the request to stop to the end of a subscriber: no view that it received is to be lost."""

from __future__ import annotations

import logging
import time

from viewer_pipeline.errors import RedisFailed, TransientError
from viewer_pipeline.ingest.segment_writer import FOLD_SECONDS, SegmentWriter
from viewer_pipeline.ingest.subscriber_scripts import KeySpaceChanged, LeaseLost
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.ingest.subscription import Subscription
from viewer_pipeline.logs import event

log = logging.getLogger("viewer_pipeline.subscriber")

DRAIN_SECONDS = 5.0  # how long a stop waits for the messages that are on their way
EXPIRY_SECONDS = 9.0  # how long it waits for the lease of a holder that died: until it is over, and some more
STOP_SECONDS = DRAIN_SECONDS + EXPIRY_SECONDS  # for a stop without a deadline
LAST_FOLD_SECONDS = 1.0  # kept for folding received views whose cut does not arrive
RETRY_SECONDS = (0.1, 0.5)  # first and longest pause between attempts that Redis refuses


class SubscriberShutdown:
    """The end of a subscriber in order, at `deadline` (monotonic clock) at the latest."""

    def __init__(self, writer: SegmentWriter, channel: str, stats: SubscriberStats) -> None:
        self.deadline = float("inf")
        self._writer, self._channel, self._stats = writer, channel, stats
        self._buffer, self._lease = writer.buffer, writer.lease
        self._lost_views = 0  # they may be lost, because folding them might count them twice

    def receive_and_fold_rest(self, subscription: Subscription) -> None:
        """Receive the messages that are on their way and fold them. Raises SubscriptionLost, KeySpaceChanged.

        Where another worker stands by, it continues at the next cut, so this one must receive all messages before it.
        Else this one unsubscribes first: what is published afterwards reaches no worker. While Redis refuses the cut,
        as in a failover, it is tried again until there is just time enough for `fold_rest_and_release_lease`.
        """
        self._stats.enter_state("stopping")
        if not self._lease.held and not self._acquire_from_dead_holder(subscription):
            return
        writer, buffer, attempts = self._writer, self._buffer, _Backoff()
        now, last, others = time.monotonic(), 0, False
        until, idle = self.deadline - min(LAST_FOLD_SECONDS, (self.deadline - now) / 4), now + DRAIN_SECONDS
        while time.monotonic() < (until if buffer.view_count() else min(until, idle)):
            try:
                if not last and attempts.is_due():
                    others = writer.scripts.count_subscribed_workers(writer.key_space) > 1
                    if not others:
                        subscription.unsubscribe(self._channel)
                    last = writer.publish_cut()
                    until = min(until, time.monotonic() + DRAIN_SECONDS)
                writer.receiver.buffer_messages(subscription.read_messages(FOLD_SECONDS))
                if attempts.is_due():
                    writer.fold_buffered_segments()
            except TransientError as error:
                attempts.delay_next_attempt()
                writer.record_refusal(error)
                continue
            except LeaseLost:
                self._lease.mark_lost_and_draw_token()
                return
            if last and buffer.last_cut >= last and not buffer.segments:
                break
        if others and last and buffer.last_cut >= last and not buffer.segments:
            self._stats.dropped_views += buffer.drop_all()
        log.info(event("unsubscribed", channel=self._channel))

    def fold_rest_and_release_lease(self) -> int:
        """Fold what is left, if no other worker has it; release the lease. Return the views that remain.

        Each segment keeps its number: an attempt to fold it may have been written without a reply. What Redis refuses
        is tried again, over new connections, until the deadline.
        """
        attempts = _Backoff()
        while not self._try_to_fold_rest_and_release_lease():
            if time.monotonic() + attempts.pause > self.deadline:
                self._log_unanswered(self._stats.refusal_reason)
                break
            attempts.delay_next_attempt()
            time.sleep(attempts.pause)
        self._stats.in_memory = self._buffer.view_count()
        return self._buffer.view_count() + self._lost_views

    def _acquire_from_dead_holder(self, subscription: Subscription) -> bool:
        """Wait for the lease of a holder that died, if no other worker has received what it did not fold."""
        writer, until, attempts = self._writer, time.monotonic() + EXPIRY_SECONDS, _Backoff()
        while self._buffer.view_count() and (time.monotonic() < until or self._stats.refusal_reason):
            if writer.pipeline_refused or time.monotonic() > self.deadline - LAST_FOLD_SECONDS:
                break
            try:
                if self._lease.is_due():
                    writer.acquire_or_renew_lease()
                if self._lease.held:
                    return True
                if attempts.is_due() and writer.scripts.count_subscribed_workers(writer.key_space) > 1:
                    return False
            except TransientError:
                attempts.delay_next_attempt()
            writer.receiver.buffer_messages(subscription.read_messages(FOLD_SECONDS))
        return False

    def _try_to_fold_rest_and_release_lease(self) -> bool:
        """Try once. False where another attempt may succeed."""
        writer, buffer = self._writer, self._buffer
        try:
            if not self._lease.held and not self._acquire_for_unique_views():
                return writer.pipeline_refused or not buffer.view_count()
            if buffer.view_count() and writer.are_others_subscribed():
                writer.hand_over_lease()
                self._stats.dropped_views += buffer.drop_all()
            elif buffer.view_count():
                self._cut_and_fold_rest()
            if self._lease.held:
                self._lease.release(writer.key_space)
        except LeaseLost:
            self._lease.mark_lost_and_draw_token()
            self._stats.dropped_views += buffer.drop_all()
        except TransientError as error:
            writer.record_refusal(error)
            return not buffer.view_count()
        except (RedisFailed, KeySpaceChanged) as error:
            self._log_unanswered(error)
        return True

    def _cut_and_fold_rest(self) -> None:
        # Without a number, and another may have folded them.
        lost_views = self._buffer.close_segment_of_lost_connection(is_holder=True)
        self._lost_views += lost_views
        self._stats.dropped_views += lost_views
        self._writer.publish_cut()
        cut = self._writer.scripts.published
        self._stats.dropped_views += self._buffer.receive_cut(cut._replace(folded=0), cut.node)
        self._writer.fold_buffered_segments()

    def _acquire_for_unique_views(self) -> bool:
        """Acquire the lease for views that no other worker received; drop them where one did, for it folds them."""
        if not self._buffer.view_count():
            return False
        if self._writer.are_others_subscribed():
            self._stats.dropped_views += self._buffer.drop_all()
            return False
        self._writer.acquire_or_renew_lease()
        return self._lease.held

    def _log_unanswered(self, reason: object) -> None:
        log.warning(event("subscriber_stopped_without_reply", views=self._buffer.view_count(), reason=reason))


class _Backoff:
    """Pauses between attempts, which get longer."""

    def __init__(self) -> None:
        self.pause, self._longest = RETRY_SECONDS
        self._due = 0.0

    def is_due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() >= self._due

    def delay_next_attempt(self) -> None:
        """Make the next one due after the pause, and double the pause. Does not sleep."""
        self._due = time.monotonic() + self.pause
        self.pause = min(self.pause * 2, self._longest)
