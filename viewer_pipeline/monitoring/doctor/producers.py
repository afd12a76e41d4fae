"""Listening to the producers: does a counter rise with its message, or only once a worker folds it?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from itertools import islice

import redis

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.counters import counter_pattern
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_queries import batches_beyond
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.monitoring.doctor.evidence import Evidence, Sight
from viewer_pipeline.monitoring.doctor.look import Look
from viewer_pipeline.monitoring.doctor.traffic import Traffic
from viewer_pipeline.monitoring.doctor.wire import Message, Wire

LOOK_SECONDS = 0.05  # between two looks at the counters: shorter than the worker lets a message wait
QUIET_SECONDS = 0.05  # without a message, after which all that belongs to the last one has happened
QUIET_TRIES = 20
VODS = 1000  # that are looked at: holds Redis for 0.3 ms
KNOWN = 300  # of them, counters that are there before anything is heard
KNOWN_SCANS = 20
PAGE = 500  # batches

Clock = Callable[[], float]


class Listening:
    """Hears what is published and looks at the counters of the VODs that it hears of."""

    def __init__(self, wire: Wire, store: RedisStore, ledger: Ledger, channel: str, space: str) -> None:
        self.traffic = Traffic(channel.encode(), store.names.cuts_channel(space).encode())
        self.evidence = Evidence()
        self._wire, self._store, self._ledger = wire, store, ledger
        self._vods: dict[str, None] = {}
        self._last: Look | None = None
        self._new: dict[str, tuple[int, int]] = {}  # heard of at the last look: views, and how many of them are folded

    def listen(self, seconds: float, clock: Clock = time.monotonic) -> None:
        """Listen for so long, and a moment longer until nothing is under way. Raises RedisUnavailable, RedisFailed."""
        self._know()
        self._look()
        started = looked = clock()
        while (now := clock()) < started + seconds:
            self._hear(self._wire.listen(min(LOOK_SECONDS, started + seconds - now)))
            if clock() >= looked + LOOK_SECONDS:
                looked = clock()
                if not self.traffic.messages:
                    self._know()
                self._look()
        for _ in range(QUIET_TRIES):
            heard = self._wire.listen(QUIET_SECONDS)
            self._hear(heard)
            if not heard:
                break
        self._look()

    def _know(self) -> None:
        """Take counters in that are there without a message."""
        for ids in islice(self._store.swept(), KNOWN_SCANS):
            for raw in ids:
                if len(self._vods) >= KNOWN:
                    return
                self._take_in(raw)

    def _take_in(self, raw: bytes) -> None:
        try:
            self._vods[raw.decode()] = None
        except UnicodeDecodeError:
            return

    def _hear(self, messages: list[Message]) -> None:
        for message in messages:
            self.traffic.hear(*message)

    def _look(self) -> None:
        """Look at the counters, and compare with the last look."""
        before = self._last
        ids = list(self._vods)
        heard, answers = self._wire.ask(*Look.commands(self._store.names, ids))
        self._hear(heard)
        now = Look.read(ids, answers)
        fresh = self.traffic.take()
        if before is not None:
            self._compare(before, now, fresh)
        for vod_id in fresh:
            if len(self._vods) >= VODS:
                break
            self._vods[vod_id] = None
        self._last = now

    def _compare(self, before: Look, now: Look, heard: Counter[str]) -> None:
        folded = self.traffic.folded(before.folds, now.folds)
        settled = self._settled(before, now)
        new, self._new = self._new, {}
        if folded is None or settled is None:
            self.evidence.unknown += 1
            return
        self.evidence.add(before.counters, now.counters, heard, folded, settled)
        for vod_id, (views, folds) in new.items():
            if vod_id in now.counters and not settled[vod_id]:
                sight = Sight(views + heard[vod_id], folds + folded[vod_id], now.counters[vod_id])
                self.evidence.sights.append(sight)
        self._new = {vod_id: (views, folded[vod_id]) for vod_id, views in heard.items() if vod_id not in self._vods}

    def _settled(self, before: Look, now: Look) -> Counter[str] | None:
        """Return what was subtracted between two looks, which the ledger knows; None where it cannot be told."""
        if (before.marker, before.space) == (now.marker, now.space):
            return Counter()
        if before.marker is None or now.marker is None or before.marker.epoch != now.marker.epoch:
            return None
        try:
            return self._of_ledger(before.marker, now.marker)
        except ViewerPipelineError:
            return None

    def _of_ledger(self, marker: Marker, end: Marker) -> Counter[str]:
        settled = Counter[str]()
        with self._ledger.connect(any_server=True) as connection:
            while page := batches_beyond(connection, marker.seq, marker.batch, end.seq, PAGE):
                for batch in page:
                    if (batch.seq, batch.number) <= (end.seq, end.batch) and batch.epoch == end.epoch:
                        settled.update(
                            {v: d for v, d in zip(batch.vod_ids, batch.deltas, strict=True) if v in self._vods}
                        )
                marker = Marker(page[-1].seq, page[-1].number, page[-1].of, end.epoch)
        return settled


def open_wire(client: redis.Redis, store: RedisStore, channel: str) -> Wire:
    """Open the connection to listen on. Raises RedisUnavailable, RedisFailed."""
    wire = Wire(client, store.url, channel, counter_pattern(store.names.cuts))
    wire.open()
    return wire
