"""The two servers that all work is done on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect


@dataclass(frozen=True)
class Stores:
    """Redis with the counters, PostgreSQL with the ledger."""

    redis: RedisStore
    ledger: Ledger

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator[Stores]:
        """Open both as the settings name them. Connections are made when they are used, and kept until the end."""
        with (
            connect(settings.require_redis_url()) as client,
            Ledger.of(settings).keeping_connections() as ledger,
        ):
            yield cls(open_store(client, settings), ledger)
