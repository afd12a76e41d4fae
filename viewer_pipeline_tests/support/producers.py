"""Producers of each kind, on threads, at a rate; and flushes that go on meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Self

import orjson
import redis

from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.subscribers import CHANNEL, message
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

# streamix: a session's key, INCR, PUBLISH; backwards: PUBLISH, INCR; publish and incr: one of the two; without_count:
# INCRBY of three views, PUBLISH of the id alone.
Kind = Literal["streamix", "backwards", "publish", "incr", "without_count"]


class Producer:
    """Sends views, one after another, from a thread; a context manager. `batch`: so many of them in one pipeline."""

    def __init__(
        self, url: str, kind: Kind, *, vods: int = 20, pause: float = 0.005, batch: int = 1, name: str = "vod"
    ) -> None:
        self.sent = 0
        self._url, self._kind, self._vods, self._pause, self._batch, self._name = url, kind, vods, pause, batch, name
        self._random = random.Random(name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.sent, 30, "the first view")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(ENOUGH)

    def _run(self) -> None:
        with connect(self._url) as client:
            while not self._stop.wait(self._pause):
                if self._batch == 1:
                    self._send(client)
                else:
                    with client.pipeline(transaction=False) as pipeline:
                        for _ in range(self._batch):
                            self._send(pipeline)
                        pipeline.execute()
                self.sent += self._batch

    def _send(self, client: redis.Redis) -> None:
        vod_id = f"{self._name}{self._random.randrange(self._vods)}"
        if self._kind == "streamix":
            client.set(f"vod:session:{vod_id}:{self._random.randrange(10**6)}", "1", ex=86_400)
        if self._kind in ("streamix", "incr"):
            client.incr(PREFIX + vod_id)
        if self._kind == "without_count":
            client.incrby(PREFIX + vod_id, 3)
            client.publish(CHANNEL, orjson.dumps({"vodId": vod_id}))
        elif self._kind != "incr":
            client.publish(CHANNEL, message(vod_id))
        if self._kind == "backwards":
            client.incr(PREFIX + vod_id)


@contextmanager
def flushes_going_on(world: World) -> Iterator[None]:
    """Flush again and again on a thread."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            world.flush(batch_size=10, flush_max_counters=1000)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(ENOUGH)
