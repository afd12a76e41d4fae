"""Connections of a run are kept from step to step: one login, no closed connection, nothing of an earlier user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import dagster as dg
import psycopg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.errors import PostgresFailed, TargetUnusable
from viewer_pipeline.flush import ledger as ledger_module
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import read_commit_state
from viewer_pipeline.orchestration.dagster_instance import open_instance
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.calls import Recorder, watching
from viewer_pipeline_tests.support.dagster_world import by_hand
from viewer_pipeline_tests.support.streamix import TargetWorld
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

OURS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'viewer-pipeline' AND pid <> pg_backend_pid()
"""


@pytest.fixture
def kept(world: World) -> Iterator[Ledger]:
    """A ledger that keeps its connections."""
    with world.stores.ledger.keeping_connections() as ledger:
        yield ledger


def run_flush(world: World) -> dg.ExecuteInProcessResult:
    """Run the flush job in this process."""
    settings = Settings(redis_url=world.stores.redis.url, database_url=world.stores.ledger.url)
    with dg.DagsterInstance.ephemeral() as instance:
        return defs.resolve_job_def(flush_views.name).execute_in_process(
            instance=instance, resources={"settings": settings}, raise_on_error=False
        )


def pid(ledger: Ledger, **options: bool) -> int:
    """Return the server's process of the next connection."""
    with ledger.connect(**options) as connection:
        return connection.info.backend_pid


def end_sessions(world: World) -> None:
    """Let PostgreSQL close all connections of ours."""
    world.execute(f"SELECT pg_terminate_backend(pid) FROM ({OURS}) AS session")
    wait_until(lambda: world.rows(OURS) == [], 30, "the sessions have ended")


def test_a_run_connects_once(world: World) -> None:
    """To PostgreSQL. To Redis, a drain has a connection that must not be replaced (R7), and a sweep one for SCAN."""
    world.send_many(5)
    recorder = Recorder()
    received = world.client.info("stats")["total_connections_received"]
    with watching(recorder):
        assert run_flush(world).success
    assert world.client.info("stats")["total_connections_received"] == received + 3
    connects = Counter(call for _, call, _ in recorder.calls if call.endswith(" connect"))
    assert connects == {"postgres connect": 1, "redis connect": 3}
    wait_until(lambda: world.rows(OURS) == [], 30, "the connection is closed with the run")
    world.assert_all_persisted()


def test_connections_that_the_servers_closed_between_two_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are replaced before a step uses them: no error, no retry, every view once."""
    world.send_many(5)

    def close_and_aggregate(*arguments: Any) -> Any:
        assert len(world.rows(OURS)) == 1
        end_sessions(world)
        world.client.client_kill_filter(_type="normal", skipme=True)
        return aggregate(*arguments)

    monkeypatch.setattr("viewer_pipeline.flush.each_stream.aggregate", close_and_aggregate)
    result = run_flush(world)
    assert result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    world.assert_all_persisted()


def test_consecutive_and_simultaneous_uses(world: World, kept: Ledger) -> None:
    """Those share a connection, these do not. All are closed in the end."""
    with kept.connect() as connection:
        first = connection.info.backend_pid
        with kept.connect() as other:
            second = other.info.backend_pid
    assert first != second
    assert {pid(kept), pid(kept)} < {first, second}
    with world.stores.ledger.keeping_connections() as another:
        third = pid(another)
        assert {row[0] for row in world.rows(OURS)} == {first, second, third}
    wait_until(lambda: {row[0] for row in world.rows(OURS)} == {first, second}, 30, "it is closed")


def test_a_ledger_keeps_no_connection_by_itself(world: World) -> None:
    """Programs that use it once an hour hold no session."""
    pid(world.stores.ledger)
    wait_until(lambda: world.rows(OURS) == [], 30, "the connection is closed")


def test_a_closed_connection_is_replaced(world: World, kept: Ledger) -> None:
    """Before it is used."""
    before = pid(kept)
    end_sessions(world)
    assert pid(kept) != before


def test_a_connection_is_not_used_again_after_an_error(kept: Ledger) -> None:
    """Of the server, or of the program that used it."""
    first = pid(kept)
    with pytest.raises(PostgresFailed), kept.connect() as connection:
        connection.execute("SELECT 1 / 0")
    second = pid(kept)
    with pytest.raises(KeyboardInterrupt), kept.connect():
        raise KeyboardInterrupt
    assert len({first, second, pid(kept)}) == 3


def test_a_transaction_that_is_left_open_ends(world: World, kept: Ledger) -> None:
    """Its connection is closed, so that no lock stays."""
    with kept.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE viewer.flush")
        first = connection.info.backend_pid
    assert pid(kept) != first
    wait_until(lambda: first not in {row[0] for row in world.rows(OURS)}, 30, "it is closed")


def test_lookup_of_a_commit_over_a_new_connection(kept: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """R8: a kept one may lead to a server that the address has left."""
    pids = list[int]()

    def read_and_note(connection: psycopg.Connection, *arguments: Any) -> Any:
        pids.append(connection.info.backend_pid)
        return read_commit_state(connection, *arguments)

    monkeypatch.setattr(ledger_module, "read_commit_state", read_and_note)
    before = pid(kept)
    assert not kept.has_committed(uuid4())
    assert len(pids) == 1
    assert before not in pids
    assert pid(kept) == before


def test_lookup_of_the_target_table_after_an_error(vods: TargetWorld) -> None:
    """It may be altered by then; without an error, the next step need not look it up."""
    with vods.stores.ledger.keeping_connections() as ledger:
        with ledger.connect() as connection:
            target = ledger.target(connection)
        vods.execute('ALTER TABLE "Vod" RENAME COLUMN "viewCount" TO other')
        with ledger.connect() as connection:
            assert ledger.target(connection) is target
        with pytest.raises(PostgresFailed), ledger.connect() as connection:
            connection.execute("SELECT 1 / 0")
        with pytest.raises(TargetUnusable, match="viewCount"), ledger.connect() as connection:
            ledger.target(connection)


def test_settings_are_parsed_once(world: World, dagster_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a run with its storage, its resources and its logger, in an environment that has all settings."""
    world.send_many(5)
    parsed = list[Settings]()
    initialize = Settings.__init__

    def count_and_initialize(self: Settings, **options: Any) -> None:
        parsed.append(self)
        initialize(self, **options)

    monkeypatch.setattr(Settings, "__init__", count_and_initialize)
    with open_instance(dagster_settings) as instance:
        assert by_hand(instance).success
    assert len(parsed) == 1
    world.assert_all_persisted()
