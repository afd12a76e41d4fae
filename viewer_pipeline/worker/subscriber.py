"""The subscriber: from messages to counters and changed set, each message once."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field

import redis

from viewer_pipeline.counting.folds import CUTS_CHANNEL, FoldStore
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
        self._stop = threading.Event()
        self.listening = threading.Event()

    def stop(self) -> None:
        """Make `run` fold what is in memory and return."""
        self._stop.set()

    def run(self) -> None:
        """Subscribe, listen, and do it again after every loss, until `stop`."""
        pause, longest = RETRY_SECONDS
        while not self._stop.is_set():
            subscription = Subscription(self._listener, [self._channel.decode(), CUTS_CHANNEL])
            try:
                subscription.open()
                self._listen(subscription)
                pause = RETRY_SECONDS[0]
            except (SubscriptionLost, TransientError, redis.RedisError) as error:
                if self.listening.is_set():
                    pause = RETRY_SECONDS[0]
                    log.warning("subscription lost channel=%s reason=%s", self._channel.decode(), error)
                self.listening.clear()
                self._stop.wait(pause)
                pause = min(pause * 2, longest)
            finally:
                subscription.close()

    def _listen(self, subscription: Subscription) -> None:
        self._stream.interrupted()
        self._fold()
        self._folds.cut()
        self._store.ask_for_sweep("subscribed; messages may have been missed before")
        log.info("subscribed channel=%s", self._channel.decode())
        self.listening.set()
        due = 0.0
        while not self._stop.is_set():
            self._hear(subscription.read(FOLD_SECONDS))
            self._fold()
            if self._stream.views and time.monotonic() >= due:
                self._folds.cut()
                due = time.monotonic() + FOLD_SECONDS
        self._finish(subscription)

    def _finish(self, subscription: Subscription) -> None:
        """Hear no more, and fold what was heard."""
        subscription.unsubscribe(self._channel.decode())
        last, deadline = self._folds.cut(), time.monotonic() + FINISH_SECONDS
        while self._stream.last_cut < last and time.monotonic() < deadline:
            self._hear(subscription.read(FOLD_SECONDS))
        self._fold()
        log.info("unsubscribed channel=%s", self._channel.decode())

    def _hear(self, messages: list[tuple[bytes, bytes]]) -> None:
        for channel, payload in messages:
            if channel != self._channel:
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
            for vod_id, reason in folded.refused.items():
                reject = Reject.of("message", vod_id.encode(), str(views[vod_id]).encode(), f"counter: {reason}")
                self._rejections.add(reject)
