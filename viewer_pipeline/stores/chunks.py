"""Cut an iterable into tuples of bounded length (itertools.batched, which Python has from 3.12)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], length: int) -> Iterator[tuple[T, ...]]:
    """Yield tuples of `length` items, the last one shorter; nothing for an empty iterable."""
    remaining = iter(items)
    while chunk := tuple(islice(remaining, length)):
        yield chunk
