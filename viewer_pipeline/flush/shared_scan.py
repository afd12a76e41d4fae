"""One scan of the key space for several streams at once: a sweep does not scan it once for each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import NamedTuple

from viewer_pipeline.flush.redis_store import RedisStore

JOIN_SECONDS = 600.0  # for which a stream waits for the others, which settle what was left unsettled

Page = tuple[int, list[bytes]]  # the cursor after a call of SCAN, and the raw ids in it


class _Start(NamedTuple):
    """Where a stream would begin."""

    cursor: int
    server: str
    limit: int


class SharedScan:
    """Hands each of `streams` streams the ids of its own part, from one scan. For one thread of each stream, once.

    Each joins it after it has read its marker: what a scan returns must exist after that (rule R16). The stream that
    is last to join scans, and the others read from queues. Streams that would begin at different places, or whose
    companions have failed, scan by themselves.
    """

    def __init__(self, streams: int) -> None:
        self._starts = dict[int, _Start]()  # by part
        self._queues: dict[int, SimpleQueue[Page | Exception | None]] = {}
        self._barrier = threading.Barrier(streams)

    def abandon(self) -> None:
        """Let the others scan by themselves: this stream has failed."""
        self._barrier.abort()

    def pages(self, scanner: RedisStore, cursor: int, server: str, limit: int) -> Iterator[Page]:
        """Yield, per call of SCAN over the keys after `cursor`, its own cursor and the raw ids of the stream's part."""
        part = scanner.layout.stream.part
        if part in self._starts:  # what it read was discarded, and the others are further by now
            return self._alone(scanner, cursor, limit)
        self._starts[part], self._queues[part] = _Start(cursor, server, limit), SimpleQueue()
        try:
            place = self._barrier.wait(JOIN_SECONDS)
        except threading.BrokenBarrierError:
            place = -1
        if place < 0 or len({*self._starts.values()}) > 1:
            return self._alone(scanner, cursor, limit)
        return self._for_all(scanner, cursor, limit) if place == 0 else self._from_queue(part)

    @staticmethod
    def _alone(scanner: RedisStore, cursor: int, limit: int) -> Iterator[Page]:
        for after, ids in scanner.scan_ahead(cursor, limit):
            yield after, list(scanner.layout.owned(ids))

    def _for_all(self, scanner: RedisStore, cursor: int, limit: int) -> Iterator[Page]:
        layout, parts = scanner.layout, scanner.layout.stream.parts
        others = {part: queue for part, queue in self._queues.items() if part != layout.stream.part}
        end: Exception | None = RuntimeError("another stream did not read the scan to its end")
        try:
            for after, ids in scanner.scan_ahead(cursor, limit):
                by_part = layout.split(ids, parts)
                for part, queue in others.items():
                    queue.put((after, by_part[part]))
                yield after, by_part[layout.stream.part]
            end = None
        except Exception as error:
            end = error
            raise
        finally:
            for queue in others.values():
                queue.put(end)

    def _from_queue(self, part: int) -> Iterator[Page]:
        while (page := self._queues[part].get()) is not None:
            if isinstance(page, Exception):
                raise page
            yield page
