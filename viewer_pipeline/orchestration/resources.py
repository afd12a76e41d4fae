"""Redis and PostgreSQL as Dagster resources. Connections live for one step."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import DEFAULT_TOTALS_CHANNEL, RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.stores.durability import Durability
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.target.table import TargetNames


class RedisResource(dg.ConfigurableResource):  # type: ignore[type-arg]  # has no type argument of its own
    """The Redis that holds the counters. Every command has a timeout of 5 s and is tried three times."""

    url: str = Field(description="redis://, rediss://, unix:// or redis+sentinel:// URL")
    counter_prefix: str = Field(default="vod:views:", description="what the key of a counter begins with")
    totals_channel: str = Field(default=DEFAULT_TOTALS_CHANNEL, description="channel that new totals are published on")
    wait_replicas: int = Field(default=0, description="replicas that must have what was read before it is committed")
    wait_aof: bool = Field(default=False, description="whether the append-only file must have it")
    wait_timeout_ms: int = Field(default=3000, description="how long a run waits for them")

    @contextmanager
    def open(self) -> Iterator[RedisStore]:
        """Open the store for one step."""
        with connect(self.url) as client:
            durability = Durability(self.wait_replicas, self.wait_aof, self.wait_timeout_ms)
            yield RedisStore(client, self.url, self.counter_prefix, self.totals_channel, durability)


class PostgresResource(dg.ConfigurableResource):  # type: ignore[type-arg]  # has no type argument of its own
    """The PostgreSQL that holds the ledger and the totals. Every statement and every lock has a timeout."""

    url: str = Field(description="postgresql:// URL")
    target_table: str | None = Field(default=None, description="your own table that gets the counts")
    target_id_column: str = Field(default="id", description="its column with the VOD's id")
    target_count_column: str = Field(default="viewCount", description="its column with the count")

    def ledger(self) -> Ledger:
        """Return the ledger; it connects when it is used."""
        if self.target_table is None:
            return Ledger(self.url)
        names = TargetNames.parse(self.target_table, self.target_id_column, self.target_count_column)
        return Ledger(self.url, names)


@contextmanager
def stores(redis: RedisResource, postgres: PostgresResource) -> Iterator[Stores]:
    """Open both for one step."""
    with redis.open() as store:
        yield Stores(store, postgres.ledger())
