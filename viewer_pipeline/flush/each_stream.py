"""The same step of a run for several streams at once: they never wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")


def for_each_stream(step: Callable[[Work], Result], work: Sequence[Work]) -> list[Result]:
    """Return the result of each, in order; each is done on a thread of its own, one alone on this thread.

    Raises the first error, once all have ended: what the others have committed is settled.
    """
    if len(work) == 1:
        return [step(work[0])]
    with ThreadPoolExecutor(len(work) or 1, "stream") as threads:
        return list(threads.map(step, work))
