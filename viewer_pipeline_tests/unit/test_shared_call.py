"""One call for all clients that wait at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from itertools import count

from viewer_pipeline.monitoring.shared_call import SharedCall
from viewer_pipeline_tests.support.waiting import ENOUGH


class Server:
    """A slow call, which ends when the test lets it, and returns its number."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Semaphore(0), threading.Semaphore(0)
        self._numbers = count(1)

    def call(self) -> int:
        """Wait for `may_end`."""
        self.begun.release()
        assert self.may_end.acquire(timeout=ENOUGH)
        return next(self._numbers)

    async def wait_until_called(self) -> None:
        """Wait on a thread, so that the clients continue."""
        assert await asyncio.to_thread(self.begun.acquire, timeout=ENOUGH)


def test_clients_that_wait_share_a_call() -> None:
    """One that comes later gets a new call."""

    async def clients() -> None:
        server = Server()
        call = SharedCall(server.call)
        waiting = [asyncio.create_task(call.result()) for _ in range(100)]
        await server.wait_until_called()
        server.may_end.release()
        assert await asyncio.gather(*waiting) == [1] * 100
        server.may_end.release()
        assert await call.result() == 2

    asyncio.run(clients())


def test_client_that_leaves_ends_the_call_for_no_other() -> None:
    """The one that began it, as well."""

    async def clients() -> None:
        server = Server()
        call = SharedCall(server.call)
        first, second = (asyncio.create_task(call.result()) for _ in range(2))
        await server.wait_until_called()
        first.cancel()
        server.may_end.release()
        assert await second == 1
        assert first.cancelled()

    asyncio.run(clients())


def test_error_reaches_all_clients() -> None:
    """And the next call is a new one."""
    results: Iterator[Exception | int] = iter([ZeroDivisionError("first"), 2])

    def fail_once() -> int:
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    async def clients() -> None:
        call = SharedCall(fail_once)
        errors = await asyncio.gather(call.result(), call.result(), return_exceptions=True)
        assert [str(error) for error in errors] == ["first", "first"]
        assert await call.result() == 2

    asyncio.run(clients())
