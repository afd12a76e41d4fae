"""Both servers are restored from backups that were made one after the other, as docs/operations.md describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline_tests.support.servers import restore_database
from viewer_pipeline_tests.support.world import World

# Views of each VOD: before the first backup, between both, after both, after the restoration.
BEFORE, BETWEEN, AFTER, NEW = 3, 5, 7, 4
VODS = 4


class Backups:
    """A backup of each server, and its restoration."""

    def __init__(self, world: World, server: PostgresServer) -> None:
        self._world, self._maintenance = world, server.url_of_database("postgres")
        self._database = world.stores.ledger.url.rpartition("/")[2].partition("?")[0]
        self._keys: dict[Any, Any] = {}

    def back_up_redis(self) -> None:
        """Save every key."""
        keys: Any = self._world.client.keys("*")
        self._keys = {key: self._world.client.dump(key) for key in keys}

    def back_up_postgres(self) -> None:
        """Save the whole database."""
        self._execute(f"CREATE DATABASE {self._copy} TEMPLATE {self._database} STRATEGY file_copy")

    def restore_redis(self) -> None:
        """Restore the keys, and no others."""
        self._world.client.flushall()
        for key, value in self._keys.items():
            self._world.client.restore(key, 0, value)

    def restore_postgres(self) -> None:
        """Restore the database."""
        with psycopg.connect(self._maintenance, autocommit=True) as connection:
            restore_database(connection, self._database, self._copy)

    def drop(self) -> None:
        """Drop the copy."""
        self._execute(f"DROP DATABASE IF EXISTS {self._copy} WITH (FORCE)")

    @property
    def _copy(self) -> str:
        return self._database + "_copy"

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._maintenance, autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture
def backups(world: World, postgres_server: PostgresServer) -> Iterator[Backups]:
    """Backups of the servers of the test."""
    backups = Backups(world, postgres_server)
    yield backups
    backups.drop()


def persisted(world: World) -> set[int]:
    """Return the total, which is the same for all VODs; nothing is pending."""
    assert world.counters() == {}
    totals = world.totals()
    assert len(totals) == VODS
    return set(totals.values())


def back_up(world: World, first: Callable[[], None], second: Callable[[], None]) -> None:
    """Flush, back up the first server while views are pending, flush newer views, back up the second; lose the rest."""
    world.send_many(VODS, 1)
    world.flush()
    world.send_many(VODS, BEFORE - 1)
    first()
    world.send_many(VODS, BETWEEN)
    world.flush()
    second()
    world.send_many(VODS, AFTER)
    world.flush()


def test_redis_is_backed_up_first(world: World, backups: Backups) -> None:
    """Every view in the backup of PostgreSQL counts once; the views that Redis lacks are reported as drift."""
    back_up(world, backups.back_up_redis, backups.back_up_postgres)
    backups.restore_redis()
    backups.restore_postgres()
    world.flush()
    assert persisted(world) == {BEFORE + BETWEEN}
    assert world.incidents() == {"drift": BETWEEN * VODS}
    world.send_many(VODS, NEW)
    world.flush()
    assert persisted(world) == {BEFORE + BETWEEN + NEW}


def test_producers_start_before_the_first_flush(world: World, backups: Backups) -> None:
    """Producers must wait for the first flush: earlier views are subtracted in place of the missing ones."""
    back_up(world, backups.back_up_redis, backups.back_up_postgres)
    backups.restore_redis()
    backups.restore_postgres()
    world.send_many(VODS, NEW)
    world.flush()
    assert persisted(world) == {BEFORE + BETWEEN}


def test_postgres_is_backed_up_first(world: World, backups: Backups) -> None:
    """Views that were flushed between the backups are lost and reported; nothing counts twice."""
    back_up(world, backups.back_up_postgres, backups.back_up_redis)
    backups.restore_redis()
    backups.restore_postgres()
    world.flush()
    assert persisted(world) == {1}
    assert set(world.incidents()) == {"postgres_rolled_back"}
    world.send_many(VODS, NEW)
    world.flush()
    assert persisted(world) == {1 + NEW}


def test_postgres_beside_an_empty_redis(world: World, backups: Backups) -> None:
    """Flushed views count once; views that arrive before the first flush are held, and can be counted by hand."""
    back_up(world, backups.back_up_redis, backups.back_up_postgres)
    world.client.flushall()
    backups.restore_postgres()
    world.send_many(VODS, NEW)
    world.flush()
    assert persisted(world) == {BEFORE + BETWEEN}
    assert set(world.held().values()) == {NEW}
    assert set(world.incidents()) == {"redis_emptied"}


def test_an_old_redis_beside_a_current_postgres(world: World, backups: Backups) -> None:
    """Everything flushed since the backup is settled again from the ledger: no total changes."""
    back_up(world, backups.back_up_redis, backups.back_up_postgres)
    backups.restore_redis()
    world.flush()
    assert persisted(world) == {BEFORE + BETWEEN + AFTER}
