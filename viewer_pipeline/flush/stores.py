"""The two servers that all work is done on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import psycopg

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_streams import active_streams
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.streams import Stream


@dataclass(frozen=True)
class Stores:
    """Redis with the counters, PostgreSQL with the ledger."""

    redis: RedisStore
    ledger: Ledger
    flush_streams: int = 1  # how many streams the settings expect

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator[Stores]:
        """Open both as the settings name them. Connections are made when they are used, and kept until the end."""
        with (
            connect(settings.require_redis_url()) as client,
            Ledger.of(settings).keeping_connections() as ledger,
        ):
            yield cls(open_store(client, settings), ledger, settings.flush_streams)

    def of_stream(self, stream: Stream) -> Stores:
        """Return the same servers, for the flushes of one stream."""
        return replace(self, redis=self.redis.of_stream(stream), ledger=self.ledger.of_stream(stream))

    def of_each_stream(self, connection: psycopg.Connection | None = None) -> list[Stores]:
        """Return the same servers for each active stream, by part.

        Raises PipelineRefused if FLUSH_STREAMS is not the number that the ledger has.
        """
        with nullcontext(connection) if connection else self.ledger.connect() as connected:
            return [self.of_stream(stream) for stream in active_streams(connected, self.flush_streams)]
