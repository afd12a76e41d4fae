"""A connection to PostgreSQL on which nothing waits for ever."""

from __future__ import annotations

import time
from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

# Above the server's own statement_timeout, so that the server's reason is heard wherever there is one.
ANSWER_SECONDS = 75.0
LOOK_SECONDS = 0.1

T = TypeVar("T")


class BoundedConnection(psycopg.Connection[TupleRow]):
    """Gives up and closes itself where an answer takes longer than `answer_seconds`: OperationalError.

    libpq knows no such bound. statement_timeout is the server's, and a server that is stopped keeps none;
    tcp_user_timeout is the kernel's, which acknowledges what a stopped process does not read.
    """

    answer_seconds = ANSWER_SECONDS

    def wait(self, gen: PQGen[T], interval: float = LOOK_SECONDS, timeout: float | None = None) -> T:
        """Do what psycopg does, which lets every statement, COPY and COMMIT pass through here; to an end."""
        return super().wait(self._bounded(gen), interval, timeout)

    def _bounded(self, gen: PQGen[T]) -> PQGen[T]:
        """Pass on what psycopg waits for. It looks in every `interval`, whether anything came or not."""
        deadline = time.monotonic() + self.answer_seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.close()
                    raise psycopg.OperationalError(f"no answer within {self.answer_seconds:g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result
