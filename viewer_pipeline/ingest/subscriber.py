"""The subscriber: from messages to counters and changed set, each message once."""

from __future__ import annotations

import logging
import threading
import time
from uuid import uuid4

import redis

from viewer_pipeline.errors import RedisFailed, TransientError, ViewerPipelineError
from viewer_pipeline.ingest.cut_delivery import GRACE_SECONDS, CutDelivery, SubscriptionLocation
from viewer_pipeline.ingest.fold_store import OtherKeySpace
from viewer_pipeline.ingest.folder import COMMAND_TIMEOUT_SECONDS, FOLD_SECONDS
from viewer_pipeline.ingest.rejections import Rejections
from viewer_pipeline.ingest.segment_buffer import SegmentBuffer
from viewer_pipeline.ingest.shutdown import STOP_SECONDS, Leaver
from viewer_pipeline.ingest.stats import State, SubscriberStats
from viewer_pipeline.ingest.subscription import Subscription, SubscriptionLost
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.stores.refusals import refusals_of

log = logging.getLogger("viewer_pipeline.subscriber")

REFUSED_SECONDS = 0.5  # until the next attempt to fold where Redis refused one
RETRY_SECONDS = (0.1, 5.0)  # first and longest pause while attempts to subscribe fail
LISTENS: tuple[State, ...] = ("listening", "standby")
MAX_IDS = 200_000  # in memory, about 50 MB: what comes beyond waits in Redis, which cuts the connection in the end


class Subscriber(Leaver):
    """Listens until it is told to stop; heals whatever breaks in between.

    Any number may run. All of them hear, the holder of the lease folds, and the others have what it has not folded.
    """

    def __init__(self, settings: Settings, rejections: Rejections, stats: SubscriberStats) -> None:
        super().__init__(settings, rejections, stats)
        self._listener = connect(settings.require_redis_url(), protocol=2, seconds=COMMAND_TIMEOUT_SECONDS, retries=1)
        self._refusals = refusals_of(self._client)
        self._demotions = 0  # as many as there were when the subscription began
        self._follow_due = 0.0
        self._followed = False  # it left a subscription that was whole until then
        self._unnumbered_until: float | None = None  # how long a cut is waited for once writes are taken again
        self._write_due = 0.0
        self._stop = threading.Event()

    def stop(self, deadline: float | None = None) -> None:
        """Make `run` fold what is in memory and return, at the deadline (monotonic clock) if it cannot before."""
        self._deadline = time.monotonic() + STOP_SECONDS if deadline is None else deadline
        self._stop.set()

    def run(self) -> int:
        """Subscribe, listen, and do it again after every loss, until `stop`.

        Returns how many views were heard and could not be given to Redis before the end.
        """
        pause, longest = RETRY_SECONDS
        self._own.start()
        self._own.wait(COMMAND_TIMEOUT_SECONDS)
        while not self._stop.is_set():
            subscription: Subscription | None = None
            try:
                subscription = self._open()
                self._listen(subscription)
            except (SubscriptionLost, OtherKeySpace, ViewerPipelineError, redis.RedisError) as error:
                if self._stats.state in LISTENS:
                    pause = RETRY_SECONDS[0]
                self._lost(error)
                if isinstance(error, RedisFailed):
                    self._lease.renew_now()
                if subscription is not None:
                    subscription.close()  # before the pause: nobody would read what Redis still delivers
                if not (isinstance(error, SubscriptionLost) and error.how == "moved"):  # else Redis answers
                    self._stop.wait(pause)
                    pause = min(pause * 2, longest)
            else:
                subscription.close()
        left = self._leave()
        self._own.close()
        return left

    # --- connection ---

    def _open(self) -> Subscription:
        known, self._key_space = self._key_space, self._folds.key_space(self._key_space)
        if known not in ("", self._key_space):  # what was numbered there cannot be told apart from what is folded here
            self._lease.lost()
            self._drop(self._buffer.clear())
            self._buffer = SegmentBuffer()
        followed, self._followed = self._followed, False
        # Not after a demotion: nothing was missed, and one that came meanwhile has not heard what waits here.
        if self._lease.holds and not followed and self._folds.subscriber_count(self._key_space):
            self._hand_over()
        cuts = self._store.names.cuts_channel(self._key_space)
        self._cuts = cuts.encode()
        self._demotions, self._delivery, self._unnumbered_until = self._refusals.demotions, CutDelivery(), None
        self._location = SubscriptionLocation(self._folds, f"{cuts}:{uuid4().hex}")
        channels = [self._channel.decode(), cuts, self._location.channel, *self._presence.channels]
        subscription = Subscription(self._listener, channels)
        try:
            subscription.open()
        except BaseException:
            subscription.close()
            raise
        return subscription

    def _lost(self, error: Exception) -> None:
        """Say it once per change of state, not once per attempt."""
        stats, reason = self._stats, str(error) or "the key space in Redis has another id"
        if stats.state in LISTENS:
            stats.losses[error.how if isinstance(error, SubscriptionLost) else "error"] += 1
            self._drop(self._buffer.interrupted(holder=self._lease.holds))
            self._lease.expire_soon()
        if stats.state != "reconnecting":
            log.warning(event("not listening", channel=self._channel.decode(), reason=reason))
        stats.enter("reconnecting", reason)

    def _listen(self, subscription: Subscription) -> None:
        self._sweep_due = True
        while not self._stop.is_set():
            if self._own.changed.is_set():
                self._own.changed.clear()
                self._lease.renew_now()
            if self._lease.due():
                self._keep_lease()
                self._locate()
            self._enter()
            if self._room():
                self._receive(subscription.read(FOLD_SECONDS))
            self._delivery.check(subscription, self._buffer.last)
            self._follow()
            now = time.monotonic()
            if self._lease.holds and now >= self._write_due:
                self._write_due = now + (FOLD_SECONDS if self._write() else REFUSED_SECONDS)
        self._finish(subscription)

    def _follow(self) -> None:
        """Leave a subscription whose server was demoted, as soon as the address leads to one that takes writes.

        Until then it is kept: what is still published there is heard. Views that have no number yet get one first, by
        a cut, where that comes soon. Raises SubscriptionLost.
        """
        now = time.monotonic()
        if self._refusals.demotions == self._demotions or now < self._follow_due:
            return
        before, self._follow_due = self._refusals.demotions, now + FOLD_SECONDS
        try:
            self._store.require_writes()
        except TransientError:
            self._follow_due, self._unnumbered_until = now + REFUSED_SECONDS, None
            return
        if self._unnumbered_until is None or before != self._refusals.demotions:
            self._unnumbered_until = now + GRACE_SECONDS
        if self._buffer.numbered or not self._buffer.total() or now >= self._unnumbered_until:
            self._followed = True
            raise SubscriptionLost("moved", "the server of the subscription is not the primary any more")

    def _locate(self) -> None:
        """Leave a subscription that is on another server than the commands, also where messages still reach it.

        Raises SubscriptionLost.
        """
        try:
            elsewhere = self._location.is_elsewhere()
        except ViewerPipelineError:  # out of reach, or an ACL keeps it from us
            return
        if elsewhere and (self._buffer.numbered or not self._buffer.total()):
            self._followed = True
            raise SubscriptionLost("moved", "the subscription is on another server than the commands")

    def _enter(self) -> None:
        """Say it where the state has changed."""
        state = self._stats.state
        self._stats.holds_lease = self._lease.holds
        self._stats.enter("listening" if self._lease.holds else "standby")
        if self._stats.state != state:
            words = "listening" if self._lease.holds else "standing by: another subscriber folds, or none can yet"
            log.info(event(words, channel=self._channel.decode()))

    def _room(self) -> bool:
        """Whether to hear more. Beyond MAX_IDS the holder waits until it has folded, one that stands by starts anew.

        What is open can be folded only when its cut was heard, which waits behind what Redis has still to deliver.
        """
        if self._buffer.ids() < MAX_IDS:
            return True
        if self._lease.holds:
            if not self._stats.refusal_reason and not (self._buffer.numbered and self._buffer.segments):
                return True
            self._stop.wait(FOLD_SECONDS)
            return False
        views = self._buffer.clear()
        log.warning(event("standing by, dropped what the holder of the lease does not fold", views=views))
        self._drop(views)
        return True
