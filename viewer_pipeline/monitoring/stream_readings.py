"""How far each stream is settled, as /health and status report it. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.ledger_streams import OpenStreams, read_open_streams
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import find_refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.unsettled import Unsettled, UnsettledReader
from viewer_pipeline.streams import WHOLE, Stream


@dataclass(frozen=True)
class StreamReading:
    """One stream. `refusal`: why its ledger must not use this Redis; empty where it may."""

    stream: Stream
    marker: Marker | None  # of a cluster, that of the home slot
    last: LastFlush
    unsettled: Unsettled
    refusal: str
    holds: bool  # whether a run that reads views now may hold them

    @property
    def is_settled(self) -> bool:
        """Whether its last flush is subtracted from Redis."""
        if self.unsettled.shards is not None:
            return not self.unsettled.shards
        is_new = self.last.seq == self.stream.first
        return is_new or (self.marker is not None and self.marker[:2] >= self.last[:2])

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        marker = self.unsettled.marker if self.marker else None
        return {
            "stream": self.stream.id,
            "part": self.stream.name,
            "last_flush": self.last.seq,
            "marker_seq": marker.seq if marker else None,
            "unsettled_flushes": self.unsettled.flushes,
        }


class StreamsReader:
    """Reads all streams again and again, each over the same connections. For one thread."""

    def __init__(self, store: RedisStore, ledger: Ledger) -> None:
        self._store, self._ledger = store, ledger
        self._stores = dict[Stream, tuple[RedisStore, UnsettledReader]]()

    def read(self, connection: psycopg.Connection) -> tuple[OpenStreams, list[StreamReading]]:
        """Return the streams of the ledger, and a reading of each that has flushes to settle."""
        streams = read_open_streams(connection)
        current = streams.active or streams.closing
        self._stores = {stream: self._stores.get(stream) or self._open(stream) for stream in current}
        return streams, [self._read_stream(stream, connection) for stream in current]

    def _open(self, stream: Stream) -> tuple[RedisStore, UnsettledReader]:
        return self._store if stream == WHOLE else self._store.of_stream(stream), UnsettledReader()

    def _read_stream(self, stream: Stream, connection: psycopg.Connection) -> StreamReading:
        """Read the marker first, then the ledger: a flush in between only leaves it behind."""
        (store, reader), ledger = self._stores[stream], self._ledger.of_stream(stream)
        marker = store.marker()
        last = ledger.last_flush(connection)
        refusal = find_refusal(store, ledger, connection)
        unsettled = reader.read(store, connection, marker, last)
        if unsettled.divergence is not None:
            refusal = refusal or unsettled.divergence.refusal(ledger.place, store.layout)
        return StreamReading(stream, marker, last, unsettled, str(refusal or ""), store.has_hold(marker))


def are_several(streams: Sequence[StreamReading]) -> bool:
    """Whether the VODs are, or were, cut into several streams: then a number of a flush is not that of the only one."""
    return [reading.stream for reading in streams] != [WHOLE]
