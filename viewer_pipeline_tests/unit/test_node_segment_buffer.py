"""The buffer of a worker in a cluster: a segment is what was received between two cuts of one node, at that node."""

from __future__ import annotations

from collections import Counter

import pytest

from viewer_pipeline.ingest.node_segment_buffer import NodeSegmentBuffer
from viewer_pipeline.ingest.segment_buffer import VOID, Cut

HERE, THERE = "a" * 40, "b" * 40


def cut(number: int, previous: int, node: str = HERE, folded: int = 0) -> Cut:
    """Return a cut of a node."""
    return Cut(number, folded, previous, node)


@pytest.fixture
def buffer() -> NodeSegmentBuffer:
    """A buffer that has received cut 10, and one view since."""
    made = NodeSegmentBuffer()
    assert made.receive_cut(cut(10, 7), HERE) == 0
    made.open_views["x"] += 1
    return made


def segments(buffer: NodeSegmentBuffer) -> dict[int, Counter[str]]:
    """Return what can be folded, by number."""
    return {segment.number: segment.all_views() for segment in buffer.segments}


def test_views_between_two_cuts_have_the_number_of_the_second(buffer: NodeSegmentBuffer) -> None:
    """The numbers do not follow each other."""
    assert buffer.receive_cut(cut(99, 10), HERE) == 0
    assert segments(buffer) == {99: Counter(x=1)}


def test_views_before_the_first_cut_of_a_connection() -> None:
    """They are a part of its segment, also if Redis knows no cut before."""
    for previous in (0, 7):
        buffer = NodeSegmentBuffer(open_views=Counter(x=1))
        assert buffer.receive_cut(cut(10, previous), HERE) == 0
        assert segments(buffer) == {10: Counter(x=1)}


def test_views_before_a_void_cut_are_dropped(buffer: NodeSegmentBuffer) -> None:
    """They may be in a segment of another node."""
    assert buffer.receive_cut(cut(12, VOID), HERE) == 1
    buffer.open_views["y"] += 1
    assert buffer.receive_cut(cut(13, 12), HERE) == 0
    assert segments(buffer) == {13: Counter(y=1)}
    assert buffer.complete_after == 10  # what was dropped is in no segment of any worker


def test_a_cut_of_another_node_drops_what_was_received(buffer: NodeSegmentBuffer) -> None:
    """So does the next one of its own node: views in between have no place either."""
    assert buffer.receive_cut(cut(11, 10, THERE), HERE) == 1
    assert (buffer.numbered, buffer.complete_after) == (False, None)
    buffer.open_views["y"] += 1
    assert buffer.receive_cut(cut(12, 10), HERE) == 1
    assert segments(buffer) == {}
    assert (buffer.numbered, buffer.complete_after) == (True, 12)


def test_views_of_a_lost_connection_wait_for_the_next_cut(buffer: NodeSegmentBuffer) -> None:
    """They are in its segment if it follows the last one that was received; else in another one."""
    assert buffer.close_segment_of_lost_connection(is_holder=False) == 0
    assert (buffer.view_count(), buffer.entry_count()) == (1, 1)
    buffer.open_views["y"] += 1
    assert buffer.receive_cut(cut(12, 10), HERE) == 0
    assert segments(buffer) == {12: Counter(x=1, y=1)}
    buffer.open_views["z"] += 1
    buffer.close_segment_of_lost_connection(is_holder=False)
    assert buffer.receive_cut(cut(15, 14), HERE) == 1


def test_views_of_a_lost_connection_before_a_cut_that_this_worker_published(buffer: NodeSegmentBuffer) -> None:
    """Its number is known, although it did not arrive."""
    buffer.note_published(cut(12, 10))
    buffer.note_published(cut(13, 12))
    assert buffer.close_segment_of_lost_connection(is_holder=True) == 0
    assert segments(buffer) == {12: Counter(x=1)}


def test_views_of_a_connection_without_a_cut_are_dropped() -> None:
    """Also those of the holder of the lease: no script of a shard knows the lease."""
    buffer = NodeSegmentBuffer(open_views=Counter(x=1))
    assert buffer.close_segment_of_lost_connection(is_holder=True) == 1
    assert buffer.view_count() == 0


def test_the_first_cut_in_an_emptied_redis_at_another_node(buffer: NodeSegmentBuffer) -> None:
    """Redis does not know that another node published the last one."""
    buffer.close_segment_of_lost_connection(is_holder=True)
    buffer.open_views["y"] += 1
    assert buffer.receive_cut(cut(12, 0, THERE), THERE) == 2
    assert segments(buffer) == {}


def test_the_first_cut_in_an_emptied_redis_at_the_same_node(buffer: NodeSegmentBuffer) -> None:
    """The connection has missed no cut."""
    assert buffer.receive_cut(cut(12, 0), HERE) == 0
    assert segments(buffer) == {12: Counter(x=1)}


def test_dropping_everything_drops_views_of_a_lost_connection(buffer: NodeSegmentBuffer) -> None:
    """At a stop, or where memory is full."""
    buffer.close_segment_of_lost_connection(is_holder=True)
    assert buffer.drop_all() == 1
    assert buffer.view_count() == 0


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"7 5", Cut(7, 5)),
        (b"7 5 6 " + HERE.encode(), Cut(7, 5, 6, HERE)),
        (b"7 5 -1 " + HERE.encode(), Cut(7, 5, VOID, HERE)),
        (b"released", None),
        (b"7", None),
        (b"7 5 6", None),
        (b"7 x", None),
        (b"-7 5", None),
        (b"7 5 - n", None),
    ],
)
def test_messages_of_cuts(message: bytes, expected: Cut | None) -> None:
    """Two words of a single Redis, four of a cluster; anything else is no cut."""
    assert Cut.parse(message) == expected
