"""A producer of the soak: a process that sends views until it is stopped, each request until Redis replies."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import orjson
import redis

from viewer_pipeline.bench.soak_history import SoakHistory
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect

VOD_IDS = [f"vod{number:03d}" for number in range(200)]
SENDS = 50  # views in one request
RETRY_SECONDS = 0.1
LINE_SECONDS = 0.3  # of the history: shorter requests are summed up

# Counts the views of a request once, however often the producer sends it: if a server is killed, the producer cannot
# know whether the request was executed. KEYS: progress, then counters. ARGV: producer, number of the request.
SEND = """
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for i = 2, #KEYS do redis.call('INCR', KEYS[i]) end
return 1
"""


class Sent:
    """The views sent, by key, and their lines in the history."""

    def __init__(self, history: SoakHistory) -> None:
        self.counted: Counter[str] = Counter()
        self._history = history
        self._line: Counter[str] = Counter()
        self._begin = self._end = 0.0

    def add(self, begin: float, counters: list[str]) -> None:
        """Count a request that Redis has just acknowledged. One that took long has a line of its own."""
        end = time.monotonic()
        if end - self._begin > LINE_SECONDS:
            self.write_line()
            self._begin = begin
        self._end = end
        self._line.update(counters)
        self.counted.update(counters)

    def write_line(self) -> None:
        """Write what is not in the history yet."""
        if self._line:
            self._history.append("send", self._begin, self._end, outcome="ok", views=self._line)
        self._line = Counter()


def send_views_until_stopped(
    settings: Settings, producer_number: int, seed: int, stop: Any, sent_queue: Any, *, begun: Any, history: SoakHistory
) -> None:
    """Send views as fast as possible, each request until Redis replies; put the views sent, by key, into the queue.

    Sets the event `begun` after the first request.
    """
    generator = random.Random(seed)  # noqa: S311 - repeatable
    sent = Sent(history)
    request = 0
    with connect(settings.require_redis_url(), seconds=2, retries=0) as client:
        while not stop.is_set():
            request += 1
            vod_ids = [VOD_IDS[generator.randrange(len(VOD_IDS))] for _ in range(SENDS)]
            counters = [settings.counter_prefix + vod_id for vod_id in vod_ids]
            keys = ["soak:progress", *counters]
            begin = time.monotonic()
            _retry_until_sent(partial(client.eval, SEND, len(keys), *keys, producer_number, request))
            sent.add(begin, counters)
            begun.set()
            with suppress(redis.RedisError):  # a hint
                client.publish(settings.pubsub_channel, orjson.dumps({"vodId": vod_ids[0], "count": 1}))
    sent.write_line()
    sent_queue.put(dict(sent.counted))


def _retry_until_sent(send: Callable[[], object]) -> None:
    while True:
        try:
            send()
        except redis.RedisError:
            time.sleep(RETRY_SECONDS)
        else:
            return
