"""A slow call whose result all clients share that wait for it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")


class SharedCall(Generic[T]):
    """Runs `call` on a thread, at most once at a time. For one event loop.

    Threads are limited (40), and requests for other paths need them, too: a hundred clients that wait for a server that
    hangs would delay all others.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._running: asyncio.Task[T] | None = None

    async def result(self) -> T:
        """Return the result of the call that runs, or else of a new one. A client that leaves ends it for no other."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(run_in_threadpool(self._call))
        return await asyncio.shield(self._running)
