"""The subscriber: from messages to counters and changed set, each message once."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing

import redis

from viewer_pipeline.errors import RedisFailed, ViewerPipelineError
from viewer_pipeline.ingest.redis_failover_watch import FailoverWatch
from viewer_pipeline.ingest.reject_recorder import RejectRecorder
from viewer_pipeline.ingest.segment_writer import COMMAND_TIMEOUT_SECONDS, FOLD_SECONDS, SegmentWriter
from viewer_pipeline.ingest.subscriber_scripts import KeySpaceChanged
from viewer_pipeline.ingest.subscriber_shutdown import STOP_SECONDS, SubscriberShutdown
from viewer_pipeline.ingest.subscriber_stats import State, SubscriberStats
from viewer_pipeline.ingest.subscription import CutMessageArrivalCheck, Subscription, SubscriptionLost
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.cluster_map import share_cluster_map
from viewer_pipeline.stores.redis import connect

log = logging.getLogger("viewer_pipeline.subscriber")

REFUSED_SECONDS = 0.5  # until the next attempt to fold where Redis refused one
RECONNECT_SECONDS = (0.1, 5.0)  # first and longest pause while attempts to subscribe fail
SUBSCRIBED: tuple[State, ...] = ("listening", "standby")
# In memory, about 50 MB. While folds are refused, more waits in Redis, which closes the connection in the end. Then the
# holder reads at once what waits in front of the next cut: at most Redis's client-output-buffer-limit for pubsub.
MAX_IDS = 200_000


class Subscriber:
    """Receives and folds until it is stopped; reconnects after every loss.

    Any number may run. Each receives all messages, the holder of the lease folds, and the others keep what it has not
    folded yet.
    """

    def __init__(self, settings: Settings, rejections: RejectRecorder, stats: SubscriberStats) -> None:
        self.writer = writer = SegmentWriter(settings, rejections, stats)
        self._channel, self._rejections, self._stats = settings.pubsub_channel, rejections, stats
        self._buffer, self._lease = writer.buffer, writer.lease
        self._failover = FailoverWatch(writer)
        self._shutdown = SubscriberShutdown(writer, self._channel, stats)
        self._pubsub = connect(settings.require_redis_url(), seconds=COMMAND_TIMEOUT_SECONDS, retries=1)
        share_cluster_map(writer.client, self._pubsub)
        self._write_due = 0.0
        self._stop = threading.Event()

    def request_stop(self, deadline: float | None = None) -> None:
        """Make `run_until_stopped` fold what is in memory and return by the deadline (monotonic clock)."""
        self._shutdown.deadline = time.monotonic() + STOP_SECONDS if deadline is None else deadline
        self._stop.set()

    def run_until_stopped(self) -> int:
        """Subscribe and fold, again after every loss, until `request_stop`.

        Returns how many received views could not be given to Redis before the end.
        """
        pause, longest = RECONNECT_SECONDS
        self.writer.ledger.start(COMMAND_TIMEOUT_SECONDS)
        while not self._stop.is_set():
            try:
                # Closed before the pause below: nobody would read what Redis still delivers.
                with closing(self._prepare_subscription()) as subscription:
                    subscription.open()
                    self._lease.node = subscription.node
                    self._receive_and_fold(subscription)
            except (SubscriptionLost, KeySpaceChanged, ViewerPipelineError, redis.RedisError) as error:
                if self._stats.state in SUBSCRIBED:
                    pause = RECONNECT_SECONDS[0]
                self._on_subscription_lost(error)
                if not (isinstance(error, SubscriptionLost) and error.how == "moved"):  # else Redis answers
                    self._stop.wait(pause)
                    pause = min(pause * 2, longest)
        self._lease.node = ""
        remaining = self._shutdown.fold_rest_and_release_lease()
        self.writer.ledger.request_stop()
        return remaining

    def _prepare_subscription(self) -> Subscription:
        writer = self.writer
        known = writer.key_space
        writer.key_space = writer.scripts.read_or_create_key_space_id(known)
        if known not in ("", writer.key_space):  # its numbers cannot be compared with those of this key space
            self._lease.mark_lost_and_draw_token()
            self._stats.dropped_views += self._buffer.drop_all_and_numbers()
        moved = self._failover.test_and_clear_moved()
        # Not after a move: nothing was missed, and a worker that subscribed meanwhile has not received what waits here.
        if self._lease.held and not moved and writer.scripts.count_subscribed_workers(writer.key_space):
            writer.hand_over_lease()
        cuts = writer.store.names.cuts_channel(writer.key_space)
        writer.receiver.cuts, writer.cut_message_arrival = cuts.encode(), CutMessageArrivalCheck()
        channels = [
            self._channel,
            cuts,
            self._failover.begin_with_own_channel(cuts),
            *writer.shared_channel.presence_channels,
        ]
        return Subscription(self._pubsub, channels, cluster=writer.store.layout.cluster)

    def _receive_and_fold(self, subscription: Subscription) -> None:
        writer = self.writer
        writer.sweep_due = True
        while not self._stop.is_set():
            self._renew_lease_when_due()
            self._report_lease_state()
            if self._make_room():
                writer.receiver.buffer_messages(subscription.read_messages(FOLD_SECONDS))
            writer.cut_message_arrival.raise_if_cut_did_not_arrive(subscription, self._buffer.last_cut)
            self._failover.raise_if_on_other_server(subscription)
            self._failover.raise_if_demoted_and_replaced(subscription)
            now = time.monotonic()
            if self._lease.held and now >= self._write_due:
                self._write_due = now + (FOLD_SECONDS if writer.try_to_fold_and_cut() else REFUSED_SECONDS)
        self._shutdown.receive_and_fold_rest(subscription)

    def _renew_lease_when_due(self) -> None:
        ledger = self.writer.ledger
        if ledger.changed.is_set():
            ledger.changed.clear()
            self._lease.make_due()
        if self._lease.is_due():
            self.writer.acquire_or_renew_lease()
            self._failover.check_location()

    def _report_lease_state(self) -> None:
        """Enter the state that the lease implies; log a change."""
        state = self._stats.state
        self._stats.holds_lease = self._lease.held
        self._stats.enter_state("listening" if self._lease.held else "standby")
        if self._stats.state != state:
            log.info(event("listening" if self._lease.held else "standing_by", channel=self._channel))

    def _make_room(self) -> bool:
        """Whether to receive more. Beyond MAX_IDS the holder waits until it has folded; a standby starts over.

        The open segment can be folded only once its cut arrives, which waits behind what Redis has still to deliver.
        """
        if self._buffer.entry_count() < MAX_IDS:
            return True
        if self._lease.held:
            if not self._stats.refusal_reason and not (self._buffer.numbered and self._buffer.segments):
                return True
            self._stop.wait(FOLD_SECONDS)
            return False
        views = self._buffer.drop_all()
        log.warning(event("views_dropped", views=views))
        self._stats.dropped_views += views
        return True

    def _on_subscription_lost(self, error: Exception) -> None:
        """Close the open segment. Logged once per change of state, not once per attempt."""
        stats, reason = self._stats, str(error) or "the key space in Redis has another id"
        self._lease.node = ""
        if stats.state in SUBSCRIBED:
            stats.losses[error.how if isinstance(error, SubscriptionLost) else "error"] += 1
            stats.dropped_views += self._buffer.close_segment_of_lost_connection(is_holder=self._lease.held)
            self._rejections.on_connection_lost(is_holder=self._lease.held)
            self._lease.make_due_unless_held()
        if isinstance(error, RedisFailed):
            self._lease.make_due()
        if stats.state != "reconnecting":
            log.warning(event("not_listening", channel=self._channel, reason=reason))
        stats.enter_state("reconnecting", reason)
