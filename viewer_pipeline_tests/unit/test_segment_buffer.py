"""What a subscriber remembers: every view under the number that others have it under."""

from __future__ import annotations

from collections import Counter

from viewer_pipeline.ingest.segment_buffer import Segment, SegmentBuffer


def received(buffer: SegmentBuffer, **views: int) -> None:
    """Receive messages."""
    buffer.open_views.update(views)


def segments(buffer: SegmentBuffer) -> list[tuple[int, dict[str, int]]]:
    """Return the segments as plain values."""
    return [(segment.number, dict(segment.all_views())) for segment in buffer.segments]


def test_cut_numbers_the_views_before_it() -> None:
    """A cut without views before it makes no segment."""
    buffer = SegmentBuffer()
    received(buffer, a=1)
    buffer.cut_open_segment(7, 0)
    buffer.cut_open_segment(8, 0)
    received(buffer, b=2)
    buffer.cut_open_segment(9, 0)
    assert segments(buffer) == [(7, {"a": 1}), (9, {"b": 2})]
    assert (buffer.view_count(), buffer.entry_count()) == (3, 2)


def test_cut_drops_segments_that_another_worker_folded() -> None:
    """Each cut carries the number of the last folded segment."""
    buffer = SegmentBuffer()
    for number in (1, 2, 3):
        received(buffer, a=number)
        buffer.cut_open_segment(number, 0)
    received(buffer, b=1)
    assert buffer.cut_open_segment(4, 2) == 1 + 2
    assert segments(buffer) == [(3, {"a": 3}), (4, {"b": 1})]
    assert buffer.drop_folded(9) == 4
    assert buffer.view_count() == 0


def test_disconnect_keeps_the_number_of_the_open_segment() -> None:
    """Views that the next connection receives of the same segment are added to it."""
    buffer = SegmentBuffer()
    buffer.cut_open_segment(5, 0)
    received(buffer, a=1)
    assert buffer.close_segment_of_lost_connection(is_holder=False) == 0
    assert not buffer.numbered
    received(buffer, a=2, b=1)
    buffer.cut_open_segment(6, 0)
    assert segments(buffer) == [(6, {"a": 3, "b": 1})]


def test_disconnect_with_missed_cuts() -> None:
    """Views received before it and after it are in two segments."""
    buffer = SegmentBuffer()
    buffer.cut_open_segment(5, 0)
    received(buffer, a=1)
    buffer.close_segment_of_lost_connection(is_holder=True)
    received(buffer, b=1)
    buffer.cut_open_segment(9, 0)
    assert segments(buffer) == [(6, {"a": 1}), (9, {"b": 1})]


def test_disconnect_of_the_holder_keeps_unsequenced_views() -> None:
    """They are folded under its next cut, which is above every number that another worker may have them under."""
    buffer = SegmentBuffer()
    received(buffer, a=1)
    assert buffer.close_segment_of_lost_connection(is_holder=True) == 0
    received(buffer, a=1, b=1)
    assert buffer.close_segment_of_lost_connection(is_holder=True) == 0
    assert (buffer.view_count(), buffer.segments) == (3, [])
    buffer.cut_open_segment(3, 0)
    assert segments(buffer) == [(3, {"a": 2, "b": 1})]


def test_disconnect_of_a_standby_drops_unsequenced_views() -> None:
    """The holder may have folded them, under a number that was not received."""
    buffer = SegmentBuffer()
    received(buffer, a=4)
    assert buffer.close_segment_of_lost_connection(is_holder=False) == 4
    assert buffer.view_count() == 0


def test_drop_unsequenced_drops_views_without_a_number() -> None:
    """Another worker had the lease in between."""
    buffer = SegmentBuffer()
    received(buffer, a=4)
    buffer.close_segment_of_lost_connection(is_holder=True)
    assert buffer.drop_unsequenced_views() == 4
    assert buffer.view_count() == 0


def test_cut_with_a_lower_number_drops_older_segments() -> None:
    """Redis was emptied or lost its last writes: older numbers mean nothing from now on."""
    buffer = SegmentBuffer()
    received(buffer, a=4)
    buffer.cut_open_segment(100, 0)
    received(buffer, b=1)
    assert buffer.cut_open_segment(3, 2) == 4
    assert segments(buffer) == [(3, {"b": 1})]


def test_clear_drops_everything() -> None:
    """It returns how many views that were."""
    buffer = SegmentBuffer(unsequenced=Counter(c=3), segments=[Segment(1, Counter(a=1))], open_views=Counter(b=2))
    assert buffer.drop_all() == 6
    assert (buffer.view_count(), buffer.entry_count()) == (0, 0)
