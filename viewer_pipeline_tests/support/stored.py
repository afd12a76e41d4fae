"""The state that version 0.1.0 left in both servers (stored_0_1_0/README.md), loaded into servers of a test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import redis

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.migrations.migrate import current_revision
from viewer_pipeline.redis_names import RedisNames
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.postgres_and_redis_migration import MigrationResult, migrate_postgres_and_redis
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.redis import connect

FOLDER = Path(__file__).parents[1] / "stored_0_1_0"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
PAIRS = tuple(EXPECTED)


@dataclass(frozen=True)
class Stored:
    """One of the pairs, in a PostgreSQL and in a Redis of its own."""

    expected: dict[str, Any]
    settings: Settings
    server: RedisServer
    client: redis.Redis

    @property
    def prefix(self) -> str:
        """The counter prefix of its pipeline."""
        return str(self.expected["prefix"])

    @property
    def names(self) -> RedisNames:
        """The Redis keys of this version for it."""
        return RedisNames.of(self.prefix)

    @property
    def stores(self) -> Stores:
        """Both stores, as this version opens them."""
        ledger = Ledger(self.settings.require_database_url())
        return Stores(RedisStore(self.client, self.server.url, self.prefix), ledger)

    @property
    def schema(self) -> str | None:
        """Revision of the schema."""
        return current_revision(self.settings.require_database_url())

    def migrate(self, *, alone: bool = False) -> MigrationResult:
        """Upgrade both servers."""
        return migrate_postgres_and_redis(self.settings, lambda _: None, exclusive=alone)

    def flush(self) -> RunReport:
        """Run a sweep with small batches and flushes."""
        snapshot = drain(self.stores, FlushRequest(uuid4().hex, batch_size=4, flush_max_counters=20))
        return bulk_upsert(self.stores, snapshot, aggregate(snapshot.readings))

    def totals(self) -> dict[str, int]:
        """Persisted counts."""
        return dict(self.rows("SELECT vod_id, view_count - baseline FROM viewer.vod_view_counts"))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Run a query."""
        with psycopg.connect(self.settings.require_database_url()) as connection:
            return connection.execute(query).fetchall()

    def execute(self, statement: str) -> None:
        """Run a statement."""
        with psycopg.connect(self.settings.require_database_url()) as connection:
            connection.execute(statement)

    def hash(self, key: str) -> dict[str, str]:
        """Fields of a hash."""
        fields: Any = self.client.hgetall(key)
        return {name.decode(): value.decode() for name, value in fields.items()}

    def keys(self) -> set[str]:
        """All keys of Redis that are no counters."""
        keys: Any = self.client.keys("*")
        return {name for key in keys if not (name := key.decode()).startswith(self.prefix)}

    def everything(self) -> dict[str, Any]:
        """Everything that Redis holds."""
        keys: Any = self.client.keys("*")
        return {key.decode(): self._value(key) for key in keys}

    def _value(self, key: bytes) -> Any:
        match self.client.type(key):
            case b"hash":
                return self.client.hgetall(key)
            case b"zset":
                return self.client.zrange(key, 0, -1, withscores=True)
            case _:
                return self.client.get(key)


@contextmanager
def loaded(pair: str, database_url: str, home: Path) -> Iterator[Stored]:
    """Load a pair: replace the schema of the database, and load its Redis into a server below `home`."""
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP SCHEMA viewer CASCADE")
        connection.execute((FOLDER / f"{pair}.sql").read_bytes())
    server = RedisServer(home, append_only=False)
    shutil.copyfile(FOLDER / f"{pair}.rdb", server.directory / "dump.rdb")
    server.start()
    try:
        expected = EXPECTED[pair]
        settings = Settings(
            database_url=database_url, redis_url=server.url, counter_prefix=expected["prefix"], viewer_home=home
        )
        with connect(server.url) as client:
            yield Stored(expected, settings, server, client)
    finally:
        server.stop()
