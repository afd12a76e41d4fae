"""What a subscriber has in memory, and how it gets into counters and changed set: each message once."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter

from viewer_pipeline.errors import PipelineRefused, RedisRefusesWrites, TransientError, ViewerPipelineError
from viewer_pipeline.flush.readings import Reject
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.cut_delivery import CutDelivery
from viewer_pipeline.ingest.fold_store import FoldStore, NotHolder
from viewer_pipeline.ingest.lease import LeaseKeeper
from viewer_pipeline.ingest.ledger_lookup import LedgerLookup
from viewer_pipeline.ingest.messages import InvalidMessage, parse_view
from viewer_pipeline.ingest.rejections import Rejections
from viewer_pipeline.ingest.segment_buffer import Segment, SegmentBuffer
from viewer_pipeline.ingest.shared_channel import SharedChannelCheck
from viewer_pipeline.ingest.stats import SubscriberStats
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect

log = logging.getLogger("viewer_pipeline.subscriber")

FOLD_SECONDS = 0.05  # how long a message waits in memory
# While a command is waited for, nothing is received, and a dead connection is not noticed.
COMMAND_TIMEOUT_SECONDS = 2.0


class Folder:
    """Counts messages, cuts them into segments, and folds these while it holds the lease."""

    def __init__(self, settings: Settings, rejections: Rejections, stats: SubscriberStats) -> None:
        url = settings.require_redis_url()
        self._channel = settings.pubsub_channel.encode()
        self._client = connect(url, seconds=COMMAND_TIMEOUT_SECONDS, retries=1)
        self._store = RedisStore(self._client, url, settings.counter_prefix)
        self._folds = FoldStore(
            self._client, url, settings.counter_prefix, increment=settings.pubsub_mode == "increment"
        )
        self._own = LedgerLookup(settings.require_database_url())
        self._lease = LeaseKeeper(self._folds, self._own)
        self._rejections = rejections
        self._stats = stats
        self._buffer = SegmentBuffer()
        self._delivery = CutDelivery()
        self._presence = SharedChannelCheck(self._folds, settings)
        self._key_space, self._cuts = "", b""
        self._not_ours = False  # the counters belong to another ledger
        self._sweep_due = False
        self._cut_due = False  # also without views: it tells those who came meanwhile that they hear all

    # --- lease ---

    def _keep_lease(self) -> None:
        self._not_ours = False
        try:
            lease = self._lease.keep(self._key_space, self._buffer, self._stats.last_message)
            self._delivery.folded(lease.folded)
            self._cut_due = True
            if lease.outcome != "renewed":  # another may have had it in between, and folded
                self._drop(self._buffer.drop_unsequenced() + self._buffer.prune(lease.folded))
            if lease.outcome == "acquired":
                self._buffer.on_acquired()
                self._stats.takeovers += 1
                self._sweep_due = True
            if self._lease.holds and self._sweep_due:
                self._store.ask_for_sweep("subscribed or took over; messages may have been missed before")
                self._sweep_due = False
            if self._lease.holds:
                self._presence.check(self._key_space)
            else:  # it has nothing to fold
                self._accepted("another subscriber folds")
                with contextlib.suppress(RedisRefusesWrites):  # to stand by writes nothing: a replica would not show
                    self._store.require_writes()
        except TransientError as error:
            self._refused(error)
        except PipelineRefused as error:
            self._not_ours = True
            self._lease.lost()
            self._drop(self._buffer.drop_unsequenced())
            self._own.ask_again()  # it may be ours again: the database was restored, and adopted
            self._refused(error)

    # --- messages ---

    def _receive(self, messages: list[tuple[bytes, bytes]]) -> None:
        heard: list[bytes] = []
        for channel, payload in messages:
            if channel == self._channel:
                heard.append(payload)
            elif channel == self._cuts:
                self._count(heard)
                heard = []
                self._on_cut(payload)
        self._count(heard)

    def _count(self, payloads: list[bytes]) -> None:
        if not payloads:
            return
        stats, views = self._stats, self._buffer.views
        for payload, times in Counter(payloads).items():
            try:
                vod_id, count = parse_view(payload)
            except InvalidMessage as error:
                stats.rejected[str(error)] += times
                self._rejections.add(Reject.of("message", payload, b"", str(error)))
            else:
                stats.accepted += times
                views[vod_id] += count * times
        stats.received += len(payloads)
        stats.last_message = time.time()

    def _on_cut(self, payload: bytes) -> None:
        if payload == b"released":
            self._lease.expire_soon()
            return
        number, _, folded = payload.partition(b" ")
        if number.isdigit() and folded.isdigit():
            self._drop(self._buffer.cut(int(number), int(folded)))

    def _drop(self, views: int) -> None:
        self._stats.dropped_views += views

    # --- folds ---

    def _write(self) -> bool:
        """Fold what is cut, cut what was heard. False where Redis does not take it now: it is kept and tried again."""
        buffer = self._buffer
        try:
            self._fold()
            if buffer.views or buffer.unsequenced or buffer.segments or self._cut_due:
                self._delivery.published(self._folds.cut(self._key_space, self._lease.token, buffer.last))
                self._cut_due = False
        except TransientError as error:
            self._refused(error)
            return False
        except NotHolder:
            self._lease.lost()
            self._drop(buffer.drop_unsequenced())
            return True
        self._accepted("folding again")
        self._stats.in_memory = buffer.total()
        return True

    def _accepted(self, words: str) -> None:
        if self._stats.refusal_reason:
            log.info(event(words, channel=self._channel.decode()))
            self._stats.refusal_reason = ""

    def _refused(self, error: ViewerPipelineError) -> None:
        if not self._stats.refusal_reason:
            log.warning(event("listening, but not folding", channel=self._channel.decode(), reason=error))
        self._stats.refusal_reason = str(error)
        self._stats.in_memory = self._buffer.total()

    def _fold(self) -> None:
        """Fold all segments, once a cut was heard: the first one on a connection may add to the last segment."""
        while self._buffer.segments and self._buffer.numbered:
            self._fold_one(self._buffer.segments[0])
            self._buffer.segments.pop(0)

    def _fold_one(self, segment: Segment) -> None:
        every = segment.all()
        views = every.total()
        folded = self._folds.fold(self._lease.token, segment.number, every, time.time_ns() // 1_000_000)
        if folded.written:
            self._stats.folded += 1
            self._stats.folded_views += views
        else:
            self._drop(views)
        for vod_id, reason in folded.refused.items():
            value = str(every[vod_id]).encode()
            said = f"counter: {reason}"
            self._rejections.add(Reject.of("message", vod_id.encode(), value, said, f"segment {segment.number}"))

    # --- others ---

    def _others_hear(self) -> bool:
        """Whether others stand by. Looks twice: Redis may not know yet that our own connection is closed."""
        if not self._folds.subscriber_count(self._key_space):
            return False
        time.sleep(FOLD_SECONDS)
        return self._folds.subscriber_count(self._key_space) > 0

    def _hand_over(self) -> None:
        """Give the lease to one that stands by, and has heard what was missed here.

        Before, fold what has its cut: one that came just now has not heard that.
        """
        with contextlib.suppress(NotHolder):
            for segment in self._buffer.segments:
                if segment.number <= self._buffer.last:
                    self._fold_one(segment)
            self._buffer.prune(self._buffer.last)
        self._lease.release(self._key_space)
        self._drop(self._buffer.drop_unsequenced())
