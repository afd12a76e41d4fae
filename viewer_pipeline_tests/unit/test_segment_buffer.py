"""What a subscriber remembers: every view under the number that others have it under."""

from __future__ import annotations

from collections import Counter

from viewer_pipeline.ingest.segment_buffer import Segment, SegmentBuffer


def heard(stream: SegmentBuffer, **views: int) -> None:
    """Hear messages."""
    stream.views.update(views)


def segments(stream: SegmentBuffer) -> list[tuple[int, dict[str, int]]]:
    """Return the segments as plain values."""
    return [(segment.number, dict(segment.all())) for segment in stream.segments]


def test_cuts_number_what_came_before_them() -> None:
    """A cut without views before it makes no segment."""
    stream = SegmentBuffer()
    heard(stream, a=1)
    stream.cut(7, 0)
    stream.cut(8, 0)
    heard(stream, b=2)
    stream.cut(9, 0)
    assert segments(stream) == [(7, {"a": 1}), (9, {"b": 2})]
    assert (stream.total(), stream.ids()) == (3, 2)


def test_what_another_folded_is_dropped() -> None:
    """Cuts say how far folding came."""
    stream = SegmentBuffer()
    for number in (1, 2, 3):
        heard(stream, a=number)
        stream.cut(number, 0)
    heard(stream, b=1)
    assert stream.cut(4, 2) == 1 + 2
    assert segments(stream) == [(3, {"a": 3}), (4, {"b": 1})]
    assert stream.prune(9) == 4
    assert stream.total() == 0


def test_a_loss_closes_the_open_segment_under_its_number() -> None:
    """What is heard of the same segment on the next connection is added to it."""
    stream = SegmentBuffer()
    stream.cut(5, 0)
    heard(stream, a=1)
    assert stream.interrupted(holder=False) == 0
    assert not stream.numbered
    heard(stream, a=2, b=1)
    stream.cut(6, 0)
    assert segments(stream) == [(6, {"a": 3, "b": 1})]


def test_a_loss_with_cuts_in_the_gap() -> None:
    """What was heard before it and after it are two segments."""
    stream = SegmentBuffer()
    stream.cut(5, 0)
    heard(stream, a=1)
    stream.interrupted(holder=True)
    heard(stream, b=1)
    stream.cut(9, 0)
    assert segments(stream) == [(6, {"a": 1}), (9, {"b": 1})]


def test_the_holder_keeps_views_without_a_number() -> None:
    """They are folded under its next cut, which is above all that another may have them under."""
    stream = SegmentBuffer()
    heard(stream, a=1)
    assert stream.interrupted(holder=True) == 0
    heard(stream, a=1, b=1)
    assert stream.interrupted(holder=True) == 0
    assert (stream.total(), stream.segments) == (3, [])
    stream.cut(3, 0)
    assert segments(stream) == [(3, {"a": 2, "b": 1})]


def test_others_drop_views_without_a_number() -> None:
    """The holder may have folded them, under a number that was not heard."""
    stream = SegmentBuffer()
    heard(stream, a=4)
    assert stream.interrupted(holder=False) == 4
    assert stream.total() == 0


def test_views_without_a_number_do_not_survive_the_lease() -> None:
    """Another had it in between."""
    stream = SegmentBuffer()
    heard(stream, a=4)
    stream.interrupted(holder=True)
    assert stream.drop_unsequenced() == 4
    assert stream.total() == 0


def test_numbers_that_fall_belong_to_another_history() -> None:
    """Redis was emptied or fell back: what was cut before cannot be told apart from what is folded from now on."""
    stream = SegmentBuffer()
    heard(stream, a=4)
    stream.cut(100, 0)
    heard(stream, b=1)
    assert stream.cut(3, 2) == 4
    assert segments(stream) == [(3, {"b": 1})]


def test_clear_forgets_all() -> None:
    """And says how many views that were."""
    stream = SegmentBuffer(unsequenced=Counter(c=3), segments=[Segment(1, Counter(a=1))], views=Counter(b=2))
    assert stream.clear() == 6
    assert (stream.total(), stream.ids()) == (0, 0)
