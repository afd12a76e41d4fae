"""What a subscriber remembers: every view under the number that others have it under."""

from __future__ import annotations

from collections import Counter

from viewer_pipeline.ingest.segment_buffer import Segment, SegmentBuffer


def heard(buffer: SegmentBuffer, **views: int) -> None:
    """Hear messages."""
    buffer.open_views.update(views)


def segments(buffer: SegmentBuffer) -> list[tuple[int, dict[str, int]]]:
    """Return the segments as plain values."""
    return [(segment.number, dict(segment.all_views())) for segment in buffer.segments]


def test_cuts_number_what_came_before_them() -> None:
    """A cut without views before it makes no segment."""
    buffer = SegmentBuffer()
    heard(buffer, a=1)
    buffer.cut(7, 0)
    buffer.cut(8, 0)
    heard(buffer, b=2)
    buffer.cut(9, 0)
    assert segments(buffer) == [(7, {"a": 1}), (9, {"b": 2})]
    assert (buffer.view_count(), buffer.entry_count()) == (3, 2)


def test_what_another_folded_is_dropped() -> None:
    """Cuts say how far folding came."""
    buffer = SegmentBuffer()
    for number in (1, 2, 3):
        heard(buffer, a=number)
        buffer.cut(number, 0)
    heard(buffer, b=1)
    assert buffer.cut(4, 2) == 1 + 2
    assert segments(buffer) == [(3, {"a": 3}), (4, {"b": 1})]
    assert buffer.prune(9) == 4
    assert buffer.view_count() == 0


def test_a_loss_closes_the_open_segment_under_its_number() -> None:
    """What is heard of the same segment on the next connection is added to it."""
    buffer = SegmentBuffer()
    buffer.cut(5, 0)
    heard(buffer, a=1)
    assert buffer.on_disconnect(holder=False) == 0
    assert not buffer.numbered
    heard(buffer, a=2, b=1)
    buffer.cut(6, 0)
    assert segments(buffer) == [(6, {"a": 3, "b": 1})]


def test_a_loss_with_cuts_in_the_gap() -> None:
    """What was heard before it and after it are two segments."""
    buffer = SegmentBuffer()
    buffer.cut(5, 0)
    heard(buffer, a=1)
    buffer.on_disconnect(holder=True)
    heard(buffer, b=1)
    buffer.cut(9, 0)
    assert segments(buffer) == [(6, {"a": 1}), (9, {"b": 1})]


def test_the_holder_keeps_views_without_a_number() -> None:
    """They are folded under its next cut, which is above all that another may have them under."""
    buffer = SegmentBuffer()
    heard(buffer, a=1)
    assert buffer.on_disconnect(holder=True) == 0
    heard(buffer, a=1, b=1)
    assert buffer.on_disconnect(holder=True) == 0
    assert (buffer.view_count(), buffer.segments) == (3, [])
    buffer.cut(3, 0)
    assert segments(buffer) == [(3, {"a": 2, "b": 1})]


def test_others_drop_views_without_a_number() -> None:
    """The holder may have folded them, under a number that was not heard."""
    buffer = SegmentBuffer()
    heard(buffer, a=4)
    assert buffer.on_disconnect(holder=False) == 4
    assert buffer.view_count() == 0


def test_views_without_a_number_do_not_survive_the_lease() -> None:
    """Another had it in between."""
    buffer = SegmentBuffer()
    heard(buffer, a=4)
    buffer.on_disconnect(holder=True)
    assert buffer.drop_unsequenced() == 4
    assert buffer.view_count() == 0


def test_numbers_that_fall_belong_to_another_history() -> None:
    """Redis was emptied or fell back: what was cut before cannot be told apart from what is folded from now on."""
    buffer = SegmentBuffer()
    heard(buffer, a=4)
    buffer.cut(100, 0)
    heard(buffer, b=1)
    assert buffer.cut(3, 2) == 4
    assert segments(buffer) == [(3, {"b": 1})]


def test_clear_forgets_all() -> None:
    """And says how many views that were."""
    buffer = SegmentBuffer(unsequenced=Counter(c=3), segments=[Segment(1, Counter(a=1))], open_views=Counter(b=2))
    assert buffer.clear() == 6
    assert (buffer.view_count(), buffer.entry_count()) == (0, 0)
