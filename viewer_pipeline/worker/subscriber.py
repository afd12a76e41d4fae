"""The subscriber: from messages to counters and changed set, each message once."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field

import redis

from viewer_pipeline.counting.folds import FoldStore
from viewer_pipeline.counting.frame import Reject
from viewer_pipeline.counting.redis_client import connect
from viewer_pipeline.counting.redis_store import RedisStore
from viewer_pipeline.errors import TransientError
from viewer_pipeline.settings import Settings
from viewer_pipeline.worker.messages import NotAView, parse_view
from viewer_pipeline.worker.rejections import Rejections
from viewer_pipeline.worker.subscription import Subscription, SubscriptionLost

log = logging.getLogger("viewer_pipeline.subscriber")

FOLD_SECONDS = 0.05  # how long a message waits in memory
REFUSED_SECONDS = 0.5  # until the next attempt to fold where Redis refused one
FINISH_SECONDS = 5.0  # how long a stop waits for the messages that are on their way
RETRY_SECONDS = (0.1, 5.0)  # first and longest pause before the next attempt to subscribe


@dataclass
class Stream:
    """What was heard since the last cut, and the segments that are cut and not folded yet. Outlives a connection."""

    last_cut: int = 0
    views: Counter[str] = field(default_factory=Counter)
    segments: deque[tuple[int, Counter[str]]] = field(default_factory=deque)

    def cut(self, number: int) -> None:
        """End the segment."""
        if self.views:
            self.segments.append((number, self.views))
        self.last_cut, self.views = number, Counter()

    def total(self) -> int:
        """Return how many views are in memory."""
        return self.views.total() + sum(views.total() for _, views in self.segments)

    def interrupted(self) -> None:
        """Close what was heard before a connection was lost, as a part of the segment that was open then.

        A segment is folded once, by whoever comes first: if another subscriber has folded the whole of it, this part
        is not counted again.
        """
        if self.last_cut:
            self.cut(self.last_cut + 1)


class Subscriber:
    """Listens until it is told to stop; heals whatever breaks in between."""

    def __init__(self, settings: Settings, rejections: Rejections) -> None:
        url = settings.require_redis_url()
        self._channel = settings.pubsub_channel.encode()
        self._client = connect(url)
        self._listener = connect(url, protocol=2)
        self._store = RedisStore(self._client, url, settings.counter_prefix)
        self._folds = FoldStore(
            self._client, url, settings.counter_prefix, increment=settings.pubsub_mode == "increment"
        )
        self._rejections = rejections
        self._stream = Stream()
        self._cuts = ""
        self._said: tuple[str, type | None] = ("", None)
        self._stop = threading.Event()
        self.listening = threading.Event()

    def stop(self) -> None:
        """Make `run` fold what is in memory and return."""
        self._stop.set()

    def run(self) -> None:
        """Subscribe, listen, and do it again after every loss, until `stop`."""
        pause, longest = RETRY_SECONDS
        while not self._stop.is_set():
            subscription: Subscription | None = None
            try:
                self._cuts = self._folds.cuts_channel()
                subscription = Subscription(self._listener, [self._channel.decode(), self._cuts])
                subscription.open()
                self._listen(subscription)
            except (SubscriptionLost, TransientError, redis.RedisError) as error:
                if self.listening.is_set():
                    pause = RETRY_SECONDS[0]
                self._say("not listening", error)
                self.listening.clear()
                if subscription is not None:
                    subscription.close()  # before the pause: nobody would read what Redis still delivers
                self._stop.wait(pause)
                pause = min(pause * 2, longest)
            else:
                subscription.close()
        if self._stream.views or self._stream.segments:
            log.error("given up views=%d: Redis could not take them before the stop", self._stream.total())

    def _listen(self, subscription: Subscription) -> None:
        self._stream.interrupted()
        self._store.ask_for_sweep("subscribed; messages may have been missed before")
        self._say("listening", None)
        self.listening.set()
        due = 0.0
        while not self._stop.is_set():
            self._hear(subscription.read(FOLD_SECONDS))
            if (self._stream.views or self._stream.segments) and time.monotonic() >= due:
                due = time.monotonic() + (FOLD_SECONDS if self._write() else REFUSED_SECONDS)
        self._finish(subscription)

    def _write(self) -> bool:
        """Fold what is cut, cut what was heard. False where Redis does not take it now: it is kept and tried again."""
        try:
            self._fold()
            if self._stream.views:
                self._folds.cut(self._cuts)
        except TransientError as error:
            self._say("listening, but not folding", error)
            return False
        self._say("listening", None)
        return True

    def _finish(self, subscription: Subscription) -> None:
        """Hear no more, and fold what was heard, as long as FINISH_SECONDS allow."""
        subscription.unsubscribe(self._channel.decode())
        deadline = time.monotonic() + FINISH_SECONDS
        last: int | None = None
        while time.monotonic() < deadline:
            try:
                last = last or self._folds.cut(self._cuts)
                self._hear(subscription.read(FOLD_SECONDS))
                self._fold()
            except TransientError:
                time.sleep(FOLD_SECONDS)
                continue
            if self._stream.last_cut >= last:
                break
        self._say("unsubscribed", None)

    def _say(self, state: str, error: Exception | None) -> None:
        """Log one line per change of state, not one per attempt."""
        if (state, type(error)) != self._said:
            self._said = (state, type(error))
            level = logging.WARNING if error else logging.INFO
            log.log(level, "%s channel=%s%s", state, self._channel.decode(), f" reason={error}" if error else "")

    def _hear(self, messages: list[tuple[bytes, bytes]]) -> None:
        for channel, payload in messages:
            if channel != self._channel:
                if payload.isdigit():
                    self._stream.cut(int(payload))
                continue
            try:
                vod_id, count = parse_view(payload)
            except NotAView as error:
                self._rejections.add(Reject.of("message", payload, b"", str(error)))
            else:
                self._stream.views[vod_id] += count

    def _fold(self) -> None:
        while self._stream.segments:
            number, views = self._stream.segments[0]
            folded = self._folds.fold(number, views, time.time_ns() // 1_000_000)
            self._stream.segments.popleft()
            if not folded.written:
                log.warning("segment was folded before segment=%d views=%d", number, views.total())
            for vod_id, reason in folded.refused.items():
                value = str(views[vod_id]).encode()
                reject = Reject.of("message", vod_id.encode(), value, f"counter: {reason}", f"segment {number}")
                self._rejections.add(reject)
