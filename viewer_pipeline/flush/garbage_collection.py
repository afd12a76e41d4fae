"""Less work for the garbage collector while many objects are made that all stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLD = 200_000  # objects; Python's default is 700 to 2000


@contextmanager
def rare_collections() -> Iterator[None]:
    """Look for unreachable cycles seldom. A flush of a cluster makes some objects for each of 16384 shards.

    With Python's default, that took two fifths of the time of 100 000 counters.
    """
    before = gc.get_threshold()
    gc.set_threshold(THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
