"""Messages of the subscription into the buffer: views go to the open segment, which a cut ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from viewer_pipeline.flush.rejects import Reject
from viewer_pipeline.ingest.lease import LeaseKeeper
from viewer_pipeline.ingest.messages import InvalidMessage
from viewer_pipeline.ingest.reject_recorder import RejectRecorder
from viewer_pipeline.ingest.segment_buffer import Cut, SegmentBuffer
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.ingest.subscription import Message


class MessageIntake:
    """Reads messages in the order in which the connection delivered them. `cuts`: the channel for cuts.

    `parse` returns VOD id and views of a message, or raises InvalidMessage.
    """

    def __init__(
        self,
        channel: str,
        buffer: SegmentBuffer,
        lease: LeaseKeeper,
        rejections: RejectRecorder,
        stats: SubscriberStats,
        *,
        parse: Callable[[bytes], tuple[str, int]],
    ) -> None:
        self.cuts = b""
        self._channel, self._parse = channel.encode(), parse
        self._buffer, self._lease, self._rejections, self._stats = buffer, lease, rejections, stats

    def buffer_messages(self, messages: list[Message]) -> None:
        """Count the views between cuts, and cut the buffer at each cut. Other channels are ignored."""
        payloads: list[bytes] = []
        for channel, payload in messages:
            if channel == self._channel:
                payloads.append(payload)
            elif channel == self.cuts:
                self._buffer_views(payloads)
                payloads = []
                self._on_cut(payload)
        self._buffer_views(payloads)

    def _buffer_views(self, payloads: list[bytes]) -> None:
        if not payloads:
            return
        stats, views = self._stats, self._buffer.open_views
        for payload, times in Counter(payloads).items():
            try:
                vod_id, count = self._parse(payload)
            except InvalidMessage as error:
                stats.rejected[str(error)] += times
                self._rejections.count_and_queue(Reject.of("message", payload, b"", str(error)), times)
            else:
                stats.accepted += times
                views[vod_id] += count * times
        stats.received += len(payloads)
        stats.note_message()

    def _on_cut(self, payload: bytes) -> None:
        if payload == b"released":
            self._lease.make_due_unless_held()
            return
        if (cut := Cut.parse(payload)) is not None:
            self._rejections.on_cut(self.cuts.decode(), cut.number, is_holder=self._lease.held)
            self._stats.dropped_views += self._buffer.receive_cut(cut, self._lease.node)
