"""From buffer to Redis: cut what was received into segments, and fold each once, while this worker holds the lease."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from viewer_pipeline.errors import PipelineRefused, RedisRefusesWrites, TransientError, ViewerPipelineError
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.flush.recorded_settings import record_settings_in_redis, remedy_of_lost_settings
from viewer_pipeline.flush.rejects import Reject
from viewer_pipeline.ingest.cluster_scripts import open_scripts
from viewer_pipeline.ingest.lease import LeaseKeeper
from viewer_pipeline.ingest.ledger_identity_lookup import LedgerIdentityLookup
from viewer_pipeline.ingest.message_intake import MessageIntake
from viewer_pipeline.ingest.messages import parse_announcement, parse_view
from viewer_pipeline.ingest.node_segment_buffer import NodeSegmentBuffer
from viewer_pipeline.ingest.other_pipelines_on_channel import SharedChannelCheck
from viewer_pipeline.ingest.reject_recorder import RejectRecorder
from viewer_pipeline.ingest.segment_buffer import Segment, SegmentBuffer
from viewer_pipeline.ingest.subscriber_scripts import LeaseLost, SubscribedElsewhere
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.ingest.subscription import CutMessageArrivalCheck, SubscriptionLost
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect

log = logging.getLogger("viewer_pipeline.subscriber")

FOLD_SECONDS = 0.05  # how long a message waits in memory
# While a command is waited for, nothing is received, and a dead connection is not noticed.
COMMAND_TIMEOUT_SECONDS = 2.0


class SegmentWriter:
    """One worker's buffer, lease and connection for commands. It outlives the worker's subscriptions."""

    def __init__(self, settings: Settings, rejections: RejectRecorder, stats: SubscriberStats) -> None:
        self.client = connect(settings.require_redis_url(), seconds=COMMAND_TIMEOUT_SECONDS, retries=1)
        self.store = open_store(self.client, settings)
        increment = settings.pubsub_mode == "increment"
        self.scripts = open_scripts(self.store, increment=increment)
        self.ledger = LedgerIdentityLookup(settings)
        self.lease = LeaseKeeper(self.scripts, self.ledger)
        self.buffer = NodeSegmentBuffer() if increment and self.store.layout.cluster else SegmentBuffer()
        parse = parse_view if increment else parse_announcement
        self.receiver = MessageIntake(settings.pubsub_channel, self.buffer, self.lease, rejections, stats, parse=parse)
        self.shared_channel = SharedChannelCheck(self.scripts, settings)
        self.cut_message_arrival = CutMessageArrivalCheck()
        self.key_space = ""
        self.pipeline_refused = False  # the counters belong to another ledger
        self.sweep_due = False
        self._settings, self._settings_unrecorded = settings, False
        self._last_lease: tuple[str, int] | None = None  # outcome and term of the last attempt
        self._cut_due = False  # also without views: workers that subscribed meanwhile become complete by it
        self._channel = settings.pubsub_channel
        self._rejections, self._stats = rejections, stats

    def acquire_or_renew_lease(self) -> None:
        """Renew the lease, or try to acquire it, and do what the outcome asks for.

        Raises KeySpaceChanged; SubscriptionLost if it is at another node of the cluster than the lease.
        """
        self.pipeline_refused = False
        try:
            with self._subscribed_at_home():
                self._acquire_or_renew_lease()
        except TransientError as error:
            self.record_refusal(error)
        except PipelineRefused as error:
            self.pipeline_refused = True
            self.on_lease_lost()
            self.ledger.request_refresh()  # the database may be restored, or adopted, by now
            self.record_refusal(error)

    def try_to_fold_and_cut(self) -> bool:
        """Fold what is cut, cut what was received. False where Redis refuses it now: it is kept for another attempt.

        Raises KeySpaceChanged; SubscriptionLost if it is at another node of the cluster than the lease.
        """
        buffer = self.buffer
        try:
            has_written = self.fold_buffered_segments()
            if buffer.open_views or buffer.unsequenced or buffer.segments or self._cut_due:
                self.cut_message_arrival.expect_cut_message(self.publish_cut())
                self._cut_due, has_written = False, True
        except TransientError as error:
            self.record_refusal(error)
            return False
        except LeaseLost:
            self.on_lease_lost()
            return True
        if has_written:
            self._clear_refusal()
        self._stats.in_memory = buffer.view_count()
        return True

    def publish_cut(self) -> int:
        """End the open segment in Redis; return its number.

        Raises TransientError, LeaseLost, KeySpaceChanged; SubscriptionLost as `try_to_fold_and_cut` does.
        """
        with self._subscribed_at_home():
            token, node = self.lease.fencing_token, self.lease.node
            number = self.scripts.publish_cut(self.key_space, token, self.buffer.last_cut, node)
        self.buffer.note_published(self.scripts.published)
        return number

    def fold_buffered_segments(self) -> bool:
        """Fold all segments, once a cut was received: the first one on a connection may add to the last segment.

        Returns whether there was one. Raises TransientError, LeaseLost.
        """
        has_segments = bool(self.buffer.segments and self.buffer.numbered)
        while self.buffer.segments and self.buffer.numbered:
            self._fold_segment(self.buffer.segments[0])
            self.buffer.segments.pop(0)
        return has_segments

    def hand_over_lease(self) -> None:
        """Release the lease to a worker that stands by, and has received what was missed here.

        Before, fold what has its cut: a worker that subscribed just now has not received that.
        """
        with contextlib.suppress(LeaseLost):
            for segment in self.buffer.segments:
                if segment.number <= self.buffer.last_cut:
                    self._fold_segment(segment)
            self.buffer.drop_folded(self.buffer.last_cut)
        self.lease.release(self.key_space)
        log.debug(event("lease_handed_over", channel=self._channel))
        self._stats.dropped_views += self.buffer.drop_unsequenced_views()

    def are_others_subscribed(self) -> bool:
        """Whether other workers stand by. Counts twice: Redis may not know yet that our own connection is closed."""
        if not self.scripts.count_subscribed_workers(self.key_space):
            return False
        time.sleep(FOLD_SECONDS)
        return self.scripts.count_subscribed_workers(self.key_space) > 0

    def on_lease_lost(self) -> None:
        """Drop the views that another worker may fold from now on."""
        self.lease.mark_lost_and_draw_token()
        self._stats.dropped_views += self.buffer.drop_unsequenced_views()

    def record_refusal(self, error: ViewerPipelineError) -> None:
        """Record that Redis accepts no folds now; log it once."""
        if not self._stats.refusal_reason:
            log.warning(event("folding_refused", channel=self._channel, reason=error))
        self._stats.refusal_reason = str(error)
        self._stats.in_memory = self.buffer.view_count()

    @contextlib.contextmanager
    def _subscribed_at_home(self) -> Iterator[None]:
        """Raise SubscriptionLost where the lease is at another node of the cluster than the subscription."""
        try:
            yield
        except SubscribedElsewhere as error:
            self.client.connection_pool.disconnect()  # both begin with what the cluster says now
            raise SubscriptionLost("moved", "the home slot has moved to another node") from error

    def _clear_refusal(self) -> None:
        if self._stats.refusal_reason:
            held = self.lease.held
            log.info(event("folding_resumed" if held else "folding_left_to_other_worker", channel=self._channel))
            self._stats.refusal_reason = ""

    def _acquire_or_renew_lease(self) -> None:
        result = self.lease.acquire_or_renew(self.key_space, self.buffer, self._stats.last_message)
        if self._last_lease != (decision := (result.outcome, result.term)):
            self._last_lease = decision
            log.debug(event("lease_decided", outcome=result.outcome, term=result.term, folded=result.folded))
        self.cut_message_arrival.expect_cut_message_of_folded_segment(result.folded)
        self._cut_due = True
        if result.outcome != "renewed":  # another worker may have held it in between, and folded
            self._stats.dropped_views += self.buffer.drop_unsequenced_views() + self.buffer.drop_folded(result.folded)
        if result.outcome == "acquired":
            self.buffer.mark_if_predates_lease()
            self._stats.takeovers += 1
            self.sweep_due = self._settings_unrecorded = True
        if self.lease.held and self.sweep_due:
            reason = "subscribed or took over; messages may have been missed before"
            self.store.request_sweeps(reason)
            log.debug(event("sweep_requested", reason=reason))
            self.sweep_due = False
        if self.lease.held and self._settings_unrecorded:
            self._record_settings()
        if self.lease.held:
            self.shared_channel.check_if_due(self.key_space)
        else:  # it has nothing to fold
            self._clear_refusal()
            with contextlib.suppress(RedisRefusesWrites):  # standing by writes nothing, so a replica would not show
                self.store.require_writes()

    def _record_settings(self) -> None:
        for name, value in record_settings_in_redis(self.store, self._settings).items():
            remedy = remedy_of_lost_settings({name: value})
            log.warning(event("setting_lost", setting=name, recorded=value, remedy=remedy))
        self._settings_unrecorded = False

    def _fold_segment(self, segment: Segment) -> None:
        views = segment.all_views()
        now_ms = time.time_ns() // 1_000_000
        result = self.scripts.fold_segment(self.lease.fencing_token, segment.number, views, now_ms)
        size = {"views": views.total(), "vods": len(views)}
        log.debug(event("segment_folded", segment=segment.number, **size, written=result.written))
        if result.written:
            self._stats.folded += 1
            self._stats.folded_views += views.total()
        else:
            self._stats.dropped_views += views.total()
        for vod_id, reason in result.refused.items():
            value, context = str(views[vod_id]).encode(), f"segment {segment.number}"
            reject = Reject.of("message", vod_id.encode(), value, f"counter: {reason}", context)
            self._rejections.count_and_queue(reject)
