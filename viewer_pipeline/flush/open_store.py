"""The store of a pipeline, of a single Redis or of a cluster."""

from __future__ import annotations

import redis

from viewer_pipeline.flush.cluster_store import ClusterStore
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.redis_url import is_cluster_url
from viewer_pipeline.settings import Settings


def open_store(client: redis.Redis, settings: Settings) -> RedisStore:
    """Return the store of the pipeline that the settings name, over a client of its REDIS_URL."""
    kind = ClusterStore if is_cluster_url(settings.require_redis_url()) else RedisStore
    return kind.of(client, settings)
