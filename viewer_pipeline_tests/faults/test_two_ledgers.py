"""A prototype: whole streams in the ledgers of two PostgreSQL servers, without a common transaction (docs/adr/0028).

Each server has the ledger and the totals of one part of the VODs. No transaction spans both, because a stream never
waits for another one. What a product of it would lack is in the ADR.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import psycopg
import pytest

from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.each_stream import for_each_stream
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.redis_names import RedisNames
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.streams import Stream
from viewer_pipeline_tests.support.world import World

VODS = 40


class NamesOfPart(RedisNames):
    """The keys of a part whose ledger is another one: it has an entry of its own in the registry."""

    @property
    def registry(self) -> str:
        """The registry of the pipelines of this part."""
        return f"{super().registry}@{self.marker}"


@pytest.fixture
def second_server(tmp_path: Path) -> Iterator[PostgresServer]:
    """Another PostgreSQL with a ledger."""
    server = PostgresServer(tmp_path, port=find_free_port())
    try:
        server.start()
        migrate(server.url, with_dagster=False)
        yield server
    finally:
        server.stop()


@pytest.fixture
def parts(world: World, second_server: PostgresServer) -> list[Stores]:
    """The streams of both parts, each with the ledger of its own server."""
    parts = []
    for part, url in enumerate((world.stores.ledger.url, second_server.url)):
        stream = Stream(part + 1, part, 2)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE viewer.stream SET state = 'closed'")
            row = "INSERT INTO viewer.stream (stream, part, parts, state) VALUES (%s, %s, %s, 'active')"
            connection.execute(row, stream)
        redis = world.stores.redis.of_stream(stream)
        redis.names = NamesOfPart(*redis.names)
        parts.append(Stores(redis, Ledger(url).of_stream(stream)))
    return parts


def flush(stores: Stores) -> RunReport | None:
    """Flush one part; None if its PostgreSQL does not answer."""
    try:
        snapshot = drain(stores, World.request(redis_without_marker="count"))
        return bulk_upsert(stores, snapshot, aggregate(snapshot.readings))
    except PostgresUnavailable:
        return None


def totals(parts: list[Stores]) -> Counter[str]:
    """The totals of both servers; no VOD is in both."""
    rows = list[tuple[str, int]]()
    for stores in parts:
        with psycopg.connect(stores.ledger.url) as connection:
            rows += connection.execute("SELECT vod_id, view_count FROM viewer.vod_view_counts").fetchall()
    assert len({vod_id for vod_id, _ in rows}) == len(rows)
    return Counter(dict(rows))


def test_both_ledgers_together_have_each_view_once(world: World, parts: list[Stores]) -> None:
    """Also what one of them has committed and not settled."""
    world.send_many(VODS)
    with patch.object(Settler, "add", lambda *_: None):
        flush(parts[0])
    world.send_many(VODS, views=2)
    for_each_stream(flush, parts)
    for_each_stream(flush, parts)
    assert totals(parts) == world.sent
    assert world.counters() == {}


def test_one_server_is_down(world: World, parts: list[Stores], second_server: PostgresServer) -> None:
    """The views of its part wait in Redis; those of the other part do not."""
    world.send_many(VODS)
    for_each_stream(flush, parts)
    second_server.stop()
    world.send_many(VODS, views=1)
    reports = for_each_stream(flush, parts)
    assert (reports[0] is not None, reports[1]) == (True, None)
    layout = parts[1].redis.layout
    waiting = {vod_id for vod_id in world.sent if layout.owned([vod_id.encode()])}
    assert world.counters() == dict.fromkeys(waiting, 1)
    second_server.start()
    for_each_stream(flush, parts)
    assert totals(parts) == world.sent


def test_a_ledger_does_not_settle_the_part_of_the_other(world: World, parts: list[Stores]) -> None:
    """Each marker belongs to one ledger."""
    world.send_many(VODS)
    for_each_stream(flush, parts)
    exchanged = replace(parts[0], ledger=parts[1].ledger.of_stream(parts[0].ledger.stream))
    with pytest.raises(Exception, match="are settled by the database"):
        drain(exchanged, world.request())
    assert totals(parts) == world.sent
