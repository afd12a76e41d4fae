"""Views at a constant rate, sent by a thread until the block ends."""

from __future__ import annotations

import random
import time
from collections import Counter

from tools.peers.world import World, send_views, vod_ids
from viewer_pipeline.bench.thread_until_exit import ThreadUntilExit
from viewer_pipeline.stores.redis import connect

REQUEST_SECONDS = 0.01  # from one request to the next
REQUESTS_PER_LINE = 30  # of the history


class Traffic(ThreadUntilExit):
    """Sends views of random VODs."""

    def __init__(self, world: World, *, vods: int, views_per_second: int, seed: int) -> None:
        super().__init__()
        self._world = world
        self._vod_ids = vod_ids(vods)
        self._views_per_request = max(1, round(views_per_second * REQUEST_SECONDS))
        self._random = random.Random(seed)

    def run_until_stopped(self) -> None:
        """Send until the block ends. Late requests are sent at once, so that the rate holds."""
        with connect(self._world.redis_server.url) as client:
            due = time.monotonic()
            while not self.stop.is_set():
                begin, sent = time.monotonic(), Counter[str]()
                for _ in range(REQUESTS_PER_LINE):
                    vods = self._random.choices(self._vod_ids, k=self._views_per_request)
                    send_views(client, self._world.peer, vods)
                    sent.update(vods)
                    due += REQUEST_SECONDS
                    time.sleep(max(0.0, due - time.monotonic()))
                self._world.record_sent(begin, sent)
