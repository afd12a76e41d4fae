"""Which counters a run reads: at most `run_max_counters`, and what it leaves to the next run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from viewer_pipeline.flush.counter_reader import READ_COUNT
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.sweep_position import SweepPart, SweepPosition
from viewer_pipeline.stores.chunks import chunks


@dataclass(frozen=True)
class Progress:
    """What a run has read, once its candidates are exhausted.

    `remaining`: what it left to the next run: announced VODs, or for a sweep about so many keys. `part`: of a sweep.
    """

    read: int
    remaining: int = 0
    part: SweepPart | None = None
    sweep_restarted: str = ""  # why the part begins a new pass although there was a position


class Candidates:
    """The raw ids that a run reads, page by page. Afterwards, its progress."""

    def __init__(self, store: RedisStore, server: str, request: FlushRequest, marker: Marker) -> None:
        """`store` collects the ids over other connections than that which reads the counters, of the Redis `server`."""
        self._redis, self._server, self._request, self._marker = store, server, request, marker
        self.progress = Progress(0)

    def __iter__(self) -> Iterator[Sequence[bytes]]:
        """Yield the pages, without the VODs of other streams. Can be iterated once."""
        match self._request.mode:
            case "ids":
                yield from self._explicit()
            case "changed":
                yield from self._announced()
            case "sweep":
                yield from self._scanned()

    def _explicit(self) -> Iterator[Sequence[bytes]]:
        """All of them: the run config holds them as well."""
        vod_ids = self._request.vod_ids
        for page in chunks(vod_ids, READ_COUNT):
            yield self._redis.layout.owned([vod_id.encode() for vod_id in page])
        self.progress = Progress(len(vod_ids))

    def _announced(self) -> Iterator[Sequence[bytes]]:
        """The oldest ones. Those that are announced meanwhile, or since the run that this one continues, can wait."""
        announced, limit = self._redis.count_announced(self._request.announced_before), self._request.run_max_counters
        read = 0
        for page in self._redis.changed_ids_oldest_first(min(announced, limit)):
            read += len(page)
            yield self._redis.layout.owned(page)
        self.progress = Progress(read, max(0, announced - limit))

    def _scanned(self) -> Iterator[Sequence[bytes]]:
        """From where the last run of the sweep has come to, all in one process of Redis."""
        with self._redis.on_one_connection(only_names=True) as scanner:
            stored, begin, restarted = self._position(scanner)
            limit = self._request.run_max_counters if begin.server else sys.maxsize  # a position cannot be stored
            limit *= self._redis.layout.stream.parts  # as so many belong to other streams
            read, cursor = 0, begin.cursor
            for cursor, page in self._pages(scanner, begin, limit):  # noqa: B007 - used after the last page
                read += len(page)
                yield page
            part = SweepPart(stored, begin, begin._replace(cursor=cursor))
            keys = 0 if part.is_last else max(1, round(scanner.count_keys() * (1 - part.end.share)))
        self.progress = Progress(read, keys, part, restarted)

    def _pages(self, scanner: RedisStore, begin: SweepPosition, limit: int) -> Iterator[tuple[int, Sequence[bytes]]]:
        if self._request.shared_scan is not None:
            return self._request.shared_scan.pages(scanner, begin.cursor, begin.server, limit)
        return ((cursor, scanner.layout.owned(page)) for cursor, page in scanner.scan_ahead(begin.cursor, limit))

    def _position(self, scanner: RedisStore) -> tuple[bytes, SweepPosition, str]:
        """Return the position as it is stored, where this run begins, and why it does not continue there if so."""
        fields = [scanner.layout.sweep_field, scanner.layout.sweep_position_field]
        request, stored = (value or b"" for value in scanner.subscriber_fields(fields))
        server, epoch, ledger = scanner.server_run_id(), self._marker.epoch, self._marker.ledger
        hold, now_ms = self._marker.hold, int(scanner.now().timestamp() * 1000)
        if server != self._server:  # the connections lead to two servers: not all counters may be among these keys
            server, hold = "", ""
        begin = SweepPosition(0, now_ms, server, epoch, ledger, request, hold)
        if not stored:
            return stored, begin, ""
        position = SweepPosition.parse(stored)
        if position is None:
            return stored, begin, f"its position is unreadable: {stored[:100]!r}"
        reason = position.invalid_reason(begin)
        return stored, begin if reason else position, reason
