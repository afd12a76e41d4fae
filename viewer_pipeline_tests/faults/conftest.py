"""Fixtures of several fault tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline_tests.support.failover import PostgresPair, started
from viewer_pipeline_tests.support.world import PREFIX, World


@pytest.fixture
def postgres_pair(servers_home: Path) -> Iterator[PostgresPair]:
    """Return a primary and its standby behind one address."""
    with started(PostgresPair(servers_home)) as made:
        yield made


@pytest.fixture
def behind(postgres_pair: PostgresPair, client: Any, redis_url: str) -> World:
    """Return a world with the address of the pair."""
    return World(Stores(RedisStore(client, redis_url, PREFIX), Ledger(postgres_pair.url)))
