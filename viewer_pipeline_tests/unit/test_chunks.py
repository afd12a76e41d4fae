"""Tuples of bounded length out of any iterable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewer_pipeline.stores.chunks import chunks


@pytest.mark.parametrize(
    ("items", "length", "expected"),
    [
        ("", 3, []),
        ("a", 3, [("a",)]),
        ("abc", 3, [("a", "b", "c")]),
        ("abcd", 3, [("a", "b", "c"), ("d",)]),
        ("abc", 1, [("a",), ("b",), ("c",)]),
    ],
)
def test_chunks(items: str, length: int, expected: list[tuple[str, ...]]) -> None:
    """All are full but the last; of nothing there is none."""
    assert list(chunks(items, length)) == expected


@given(items=st.lists(st.integers()), length=st.integers(1, 12))
def test_nothing_is_lost_and_the_order_stays(items: list[int], length: int) -> None:
    """Put together again, the chunks are the items."""
    cut = list(chunks(iter(items), length))
    assert [item for chunk in cut for item in chunk] == items
    assert [len(chunk) for chunk in cut[:-1]] == [length] * (len(cut) - 1 if cut else 0)
    assert all(1 <= len(chunk) <= length for chunk in cut)


def test_items_are_taken_as_they_are_needed() -> None:
    """No item is taken ahead of its chunk, so a stream can be cut while it comes in."""
    numbers = iter(range(1000))
    assert next(chunks(numbers, 3)) == (0, 1, 2)
    assert next(numbers) == 3
