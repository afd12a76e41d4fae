"""The subscriber: from messages to counters and changed set, each message once."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter

import redis

from viewer_pipeline.counting.folds import FoldStore, NotHolder, OtherKeySpace
from viewer_pipeline.counting.readings import Reject
from viewer_pipeline.counting.redis_client import connect
from viewer_pipeline.counting.redis_store import RedisStore
from viewer_pipeline.errors import PipelineRefused, RedisFailed, TransientError, ViewerPipelineError
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings
from viewer_pipeline.worker.figures import Figures, State
from viewer_pipeline.worker.lease import LeaseKeeper
from viewer_pipeline.worker.messages import NotAView, parse_view
from viewer_pipeline.worker.own_ledger import OwnLedger
from viewer_pipeline.worker.presence import Presence
from viewer_pipeline.worker.rejections import Rejections
from viewer_pipeline.worker.stream import Segment, Stream
from viewer_pipeline.worker.subscription import Subscription, SubscriptionLost

log = logging.getLogger("viewer_pipeline.subscriber")

FOLD_SECONDS = 0.05  # how long a message waits in memory
REFUSED_SECONDS = 0.5  # until the next attempt to fold where Redis refused one
FINISH_SECONDS = 5.0  # how long a stop waits for the messages that are on their way
INHERIT_SECONDS = 9.0  # how long it waits for the lease of a holder that died: until that is over, and some more
ANSWER_SECONDS = 2.0  # for a command: while one is waited for, nothing is heard, and a dead connection not noticed
RETRY_SECONDS = (0.1, 5.0)  # first and longest pause while attempts to subscribe fail
LISTENS: tuple[State, ...] = ("listening", "standby")
MAX_IDS = 200_000  # in memory, about 50 MB: what comes beyond waits in Redis, which cuts the connection in the end


class Subscriber:
    """Listens until it is told to stop; heals whatever breaks in between.

    Any number may run. All of them hear, the holder of the lease folds, and the others have what it has not folded.
    """

    def __init__(self, settings: Settings, rejections: Rejections, figures: Figures) -> None:
        url = settings.require_redis_url()
        self._channel = settings.pubsub_channel.encode()
        self._client = connect(url, seconds=ANSWER_SECONDS, retries=1)
        self._listener = connect(url, protocol=2, seconds=ANSWER_SECONDS, retries=1)
        self._store = RedisStore(self._client, url, settings.counter_prefix)
        self._folds = FoldStore(
            self._client, url, settings.counter_prefix, increment=settings.pubsub_mode == "increment"
        )
        self._own = OwnLedger(settings.require_database_url())
        self._lease = LeaseKeeper(self._folds, self._own)
        self._rejections = rejections
        self._figures = figures
        self._stream = Stream()
        self._presence = Presence(self._folds, settings)
        self._cuts_id, self._cuts = "", b""
        self._sweep_due = False
        self._cut_due = False  # also without views: it tells those who came meanwhile that they hear all
        self._write_due = 0.0
        self._stop = threading.Event()

    def stop(self) -> None:
        """Make `run` fold what is in memory and return."""
        self._stop.set()

    def run(self) -> int:
        """Subscribe, listen, and do it again after every loss, until `stop`.

        Returns how many views were heard and could not be given to Redis before the end.
        """
        pause, longest = RETRY_SECONDS
        self._own.start()
        self._own.wait(ANSWER_SECONDS)
        while not self._stop.is_set():
            subscription: Subscription | None = None
            try:
                subscription = self._open()
                self._listen(subscription)
            except (SubscriptionLost, OtherKeySpace, ViewerPipelineError, redis.RedisError) as error:
                if self._figures.state in LISTENS:
                    pause = RETRY_SECONDS[0]
                self._lost(error)
                if isinstance(error, RedisFailed):
                    self._lease.doubt()
                if subscription is not None:
                    subscription.close()  # before the pause: nobody would read what Redis still delivers
                self._stop.wait(pause)
                pause = min(pause * 2, longest)
            else:
                subscription.close()
        left = self._leave()
        self._own.close()
        return left

    # --- connection ---

    def _open(self) -> Subscription:
        known, self._cuts_id = self._cuts_id, self._folds.cuts_id(self._cuts_id)
        if known not in ("", self._cuts_id):  # what was numbered there cannot be told apart from what is folded here
            self._lease.lost()
            self._drop(self._stream.clear())
            self._stream = Stream()
        if self._lease.holds and self._folds.hearers(self._cuts_id):
            self._hand_over()
        cuts = self._store.names.cuts_channel(self._cuts_id)
        self._cuts = cuts.encode()
        subscription = Subscription(self._listener, [self._channel.decode(), cuts, *self._presence.channels])
        try:
            subscription.open()
        except BaseException:
            subscription.close()
            raise
        return subscription

    def _lost(self, error: Exception) -> None:
        """Say it once per change of state, not once per attempt."""
        figures, reason = self._figures, str(error) or "the key space in Redis has another id"
        if figures.state in LISTENS:
            figures.losses[error.how if isinstance(error, SubscriptionLost) else "error"] += 1
            self._drop(self._stream.interrupted(holder=self._lease.holds))
            self._lease.hurry()
        if figures.state != "reconnecting":
            log.warning(event("not listening", channel=self._channel.decode(), reason=reason))
        figures.enter("reconnecting", reason)

    def _listen(self, subscription: Subscription) -> None:
        self._sweep_due = True
        while not self._stop.is_set():
            if self._own.changed.is_set():
                self._own.changed.clear()
                self._lease.doubt()
            if self._lease.due():
                self._keep_lease()
            self._enter()
            if self._room():
                self._hear(subscription.read(FOLD_SECONDS))
            now = time.monotonic()
            if self._lease.holds and now >= self._write_due:
                self._write_due = now + (FOLD_SECONDS if self._write() else REFUSED_SECONDS)
        self._finish(subscription)

    def _enter(self) -> None:
        """Say it where the state has changed."""
        state = self._figures.state
        self._figures.holds_lease = self._lease.holds
        self._figures.enter("listening" if self._lease.holds else "standby")
        if self._figures.state != state:
            words = "listening" if self._lease.holds else "standing by: another subscriber folds, or none can yet"
            log.info(event(words, channel=self._channel.decode()))

    def _room(self) -> bool:
        """Whether to hear more. Beyond MAX_IDS the holder waits until it has folded, one that stands by starts anew.

        What is open can be folded only when its cut was heard, which waits behind what Redis has still to deliver.
        """
        if self._stream.ids() < MAX_IDS:
            return True
        if self._lease.holds:
            if not self._figures.refused and not (self._stream.numbered and self._stream.segments):
                return True
            self._stop.wait(FOLD_SECONDS)
            return False
        views = self._stream.clear()
        log.warning(event("standing by, dropped what the holder of the lease does not fold", views=views))
        self._drop(views)
        return True

    def _keep_lease(self) -> None:
        try:
            lease = self._lease.keep(self._cuts_id, self._stream, self._figures.last_message)
            self._cut_due = True
            if lease.outcome != "kept":  # another may have had it in between, and folded
                self._drop(self._stream.drop_loose() + self._stream.prune(lease.folded))
            if lease.outcome == "taken":
                self._stream.taken()
                self._figures.takeovers += 1
                self._sweep_due = True
            if self._lease.holds and self._sweep_due:
                self._store.ask_for_sweep("subscribed or took over; messages may have been missed before")
                self._sweep_due = False
            if self._lease.holds:
                self._presence.check(self._cuts_id)
            else:  # it has nothing to fold
                self._accepted("another subscriber folds")
        except TransientError as error:
            self._refused(error)
        except PipelineRefused as error:
            self._lease.lost()
            self._drop(self._stream.drop_loose())
            self._own.ask_again()  # it may be ours again: the database was restored, and adopted
            self._refused(error)

    # --- messages ---

    def _hear(self, messages: list[tuple[bytes, bytes]]) -> None:
        heard: list[bytes] = []
        for channel, payload in messages:
            if channel == self._channel:
                heard.append(payload)
            elif channel == self._cuts:
                self._count(heard)
                heard = []
                self._hear_of_cut(payload)
        self._count(heard)

    def _count(self, payloads: list[bytes]) -> None:
        if not payloads:
            return
        figures, views = self._figures, self._stream.views
        for payload, times in Counter(payloads).items():
            try:
                vod_id, count = parse_view(payload)
            except NotAView as error:
                figures.rejected[str(error)] += times
                self._rejections.add(Reject.of("message", payload, b"", str(error)))
            else:
                figures.accepted += times
                views[vod_id] += count * times
        figures.heard += len(payloads)
        figures.last_message = time.time()

    def _hear_of_cut(self, payload: bytes) -> None:
        if payload == b"released":
            self._lease.hurry()
            return
        number, _, folded = payload.partition(b" ")
        if number.isdigit() and folded.isdigit():
            self._drop(self._stream.cut(int(number), int(folded)))

    def _drop(self, views: int) -> None:
        self._figures.dropped_views += views

    # --- folds ---

    def _write(self) -> bool:
        """Fold what is cut, cut what was heard. False where Redis does not take it now: it is kept and tried again."""
        stream = self._stream
        try:
            self._fold()
            if stream.views or stream.loose or stream.segments or self._cut_due:
                self._folds.cut(self._cuts_id, self._lease.token, stream.last)
                self._cut_due = False
        except TransientError as error:
            self._refused(error)
            return False
        except NotHolder:
            self._lease.lost()
            self._drop(stream.drop_loose())
            return True
        self._accepted("folding again")
        self._figures.in_memory = stream.total()
        return True

    def _accepted(self, words: str) -> None:
        if self._figures.refused:
            log.info(event(words, channel=self._channel.decode()))
            self._figures.refused = ""

    def _refused(self, error: ViewerPipelineError) -> None:
        if not self._figures.refused:
            log.warning(event("listening, but not folding", channel=self._channel.decode(), reason=error))
        self._figures.refused = str(error)
        self._figures.in_memory = self._stream.total()

    def _fold(self) -> None:
        """Fold all segments, once a cut was heard: the first one on a connection may add to the last segment."""
        while self._stream.segments and self._stream.numbered:
            self._fold_one(self._stream.segments[0])
            self._stream.segments.pop(0)

    def _fold_one(self, segment: Segment) -> None:
        every = segment.all()
        views = every.total()
        folded = self._folds.fold(self._lease.token, segment.number, every, time.time_ns() // 1_000_000)
        if folded.written:
            self._figures.folded += 1
            self._figures.folded_views += views
        else:
            self._drop(views)
        for vod_id, reason in folded.refused.items():
            value = str(every[vod_id]).encode()
            said = f"counter: {reason}"
            self._rejections.add(Reject.of("message", vod_id.encode(), value, said, f"segment {segment.number}"))

    # --- stop ---

    def _finish(self, subscription: Subscription) -> None:
        """Hear what is on its way and fold it, as long as FINISH_SECONDS allow.

        Where another stands by, it goes on at the next cut, so this one must hear all that comes before it. Else this
        one hears no more first: what is published afterwards reaches nobody.
        """
        self._figures.enter("stopping")
        if not self._lease.holds and not self._inherit(subscription):
            return
        deadline, last = time.monotonic() + FINISH_SECONDS, 0
        others = False
        while time.monotonic() < deadline:
            try:
                if not last:
                    others = self._folds.hearers(self._cuts_id) > 1
                    if not others:
                        subscription.unsubscribe(self._channel.decode())
                    last = self._folds.cut(self._cuts_id, self._lease.token, self._stream.last)
                self._hear(subscription.read(FOLD_SECONDS))
                self._fold()
            except TransientError:
                time.sleep(FOLD_SECONDS)
                continue
            except NotHolder:
                self._lease.lost()
                return
            if self._stream.last >= last:
                break
        if others and self._stream.last >= last:
            self._drop(self._stream.clear())
        log.info(event("unsubscribed", channel=self._channel.decode()))

    def _inherit(self, subscription: Subscription) -> bool:
        """Wait for the lease of a holder that died, if nobody else has heard what it did not fold."""
        deadline = time.monotonic() + INHERIT_SECONDS
        with contextlib.suppress(TransientError):
            while self._stream.total() and time.monotonic() < deadline:
                if self._lease.due():
                    self._keep_lease()
                if self._lease.holds:
                    return True
                if self._folds.hearers(self._cuts_id) > 1:
                    return False
                self._hear(subscription.read(FOLD_SECONDS))
        return False

    def _leave(self) -> int:
        """Fold what is left, if nobody else has it; give the lease back. Return the views that remain.

        Each segment under its own number: an attempt to fold it may have been written without an answer.
        """
        if not self._lease.holds:
            return 0
        stream = self._stream
        try:
            if stream.total() and self._others_hear():
                self._hand_over()
                self._drop(stream.clear())
            elif stream.total():
                number = self._folds.cut(self._cuts_id, self._lease.token, stream.last)
                self._drop(stream.cut(number, 0))
                self._fold()
            if self._lease.holds:
                self._lease.release(self._cuts_id)
        except NotHolder:
            self._drop(stream.clear())
        except (TransientError, RedisFailed, OtherKeySpace) as error:
            log.warning(event("left without an answer", views=stream.total(), reason=error))
        self._figures.in_memory = stream.total()
        return stream.total()

    def _others_hear(self) -> bool:
        """Whether others stand by. Looks twice: Redis may not know yet that our own connection is closed."""
        if not self._folds.hearers(self._cuts_id):
            return False
        time.sleep(FOLD_SECONDS)
        return self._folds.hearers(self._cuts_id) > 0

    def _hand_over(self) -> None:
        """Give the lease to one that stands by, and has heard what was missed here.

        Before, fold what has its cut: one that came just now has not heard that.
        """
        with contextlib.suppress(NotHolder):
            for segment in self._stream.segments:
                if segment.number <= self._stream.last:
                    self._fold_one(segment)
            self._stream.prune(self._stream.last)
        self._lease.release(self._cuts_id)
        self._drop(self._stream.drop_loose())
