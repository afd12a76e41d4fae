"""A client that is subscribed to the channel of the new totals while a `with` block runs."""

from __future__ import annotations

import time
from typing import Any

import orjson
import redis

from viewer_pipeline.bench.thread_until_exit import ThreadUntilExit

RECEIVE_SECONDS = 60.0


class TotalsSubscriber(ThreadUntilExit):
    """Counts the totals that it receives."""

    def __init__(self, client: redis.Redis, channel: str) -> None:
        super().__init__()
        self._received = 0
        self._pubsub: Any = client.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.subscribe(channel)
        self._pubsub.get_message(timeout=RECEIVE_SECONDS)  # the confirmation

    def run_until_stopped(self) -> None:
        """Receive and count."""
        with self._pubsub:
            while not self.stop.is_set():
                message = self._pubsub.get_message(timeout=0.1)
                if message is not None:
                    self._received += len(orjson.loads(message["data"])["counts"])

    def wait_for(self, totals: int) -> None:
        """Wait until that many totals were received since the last call. Raises AssertionError if they do not come."""
        deadline = time.monotonic() + RECEIVE_SECONDS
        while self._received < totals:
            assert time.monotonic() < deadline, f"{self._received} of {totals} totals were received"
            time.sleep(0.001)
        self._received -= totals
