"""Dagster's storage over kept connections: few logins, no closed connection, one owner of each, all tables."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dagster import DagsterInstance
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from sqlalchemy import Engine, event, text

from viewer_pipeline.cli.in_process_runs import run_flush
from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.dagster_instance import open_instance
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode
from viewer_pipeline.orchestration.storage import PooledPostgresStorage
from viewer_pipeline.orchestration.storage_engine import DIALECT, dispose_engines, engine_of
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.world import World

MAX_LOGINS = 10  # of a run: the storage's, and those of its steps
LOGINS = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
TERMINATE = f"SELECT pg_terminate_backend(pid) FROM ({SESSIONS}) AS s"
PARTS = (PostgresRunStorage, PostgresEventLogStorage, PostgresScheduleStorage)


@pytest.fixture
def engine(dagster: DagsterWorld, dagster_settings: Settings) -> Iterator[Engine]:
    """The engine of an open instance."""
    assert dagster.instance
    yield engine_of(dagster_settings)
    dispose_engines()


def pid_of(engine: Engine) -> int:
    """Return the server's process of the connection that a query gets."""
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def sessions(url: str) -> list[int]:
    """Return the server's processes for this database."""
    with psycopg.connect(url) as connection:
        return [pid for (pid,) in connection.execute(SESSIONS)]


def logins(url: str) -> int:
    """Return how many there were, once all sessions but the kept one have ended and have been counted."""
    wait_until(lambda: len(sessions(url)) <= 1, 60, "the sessions of the run have ended")
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute(LOGINS).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(("owner", "name"), [(part, name) for part in PARTS for name in ("_engine", "_init_db")])
def test_private_names_of_dagster(owner: type, name: str) -> None:
    """Each part of dagster-postgres's storage queries through `_engine` and creates its tables by `_init_db`."""
    part = owner(DIALECT, should_autocreate_tables=False)
    assert hasattr(part, name), f"{owner.__module__}.{owner.__name__}.{name} is gone; orchestration/storage.py needs it"


@pytest.mark.parametrize("name", ["_run_storage", "_event_log_storage", "_schedule_storage"])
def test_private_names_of_parts(name: str) -> None:
    """The storage of dagster-postgres keeps its parts under these names."""
    storage = DagsterPostgresStorage(DIALECT, should_autocreate_tables=False)
    assert hasattr(storage, name), f"DagsterPostgresStorage.{name} is gone; orchestration/storage.py needs it"


def test_logins_of_a_run(
    world: World, dagster: DagsterWorld, dagster_settings: Settings, engine: Engine, database_url: str
) -> None:
    """A run logs in a few times, and not once for each of its 150 queries."""
    assert engine.dialect.driver == "psycopg"
    with psycopg.connect(database_url) as connection:
        if connection.info.server_version < 15_00_00:
            pytest.skip("PostgreSQL 14 cannot be told to write its statistics at once")
    for _ in range(2):
        world.send("a")
        before = logins(database_url)
        assert run_flush(dagster.instance, dagster_settings, FlushMode.sweep, trigger="test").success
        by_run = logins(database_url) - before
    assert 0 < by_run <= MAX_LOGINS


def test_every_instance_and_every_part_shares_a_connection(
    dagster: DagsterWorld, dagster_settings: Settings, engine: Engine, database_url: str
) -> None:
    """However many instances a process opens, one connection is kept, and the webserver changes nothing."""
    with open_instance(dagster_settings) as other:
        other.optimize_for_webserver(statement_timeout=1, pool_recycle=1, max_overflow=0)
        for instance in (dagster.instance, other):
            assert instance.get_runs_count() == 0
            assert instance.all_instigator_state() == []
            assert instance.all_asset_keys() == []
    assert sessions(database_url) == [pid_of(engine)]


def schema_queries(engine: Engine, instance: DagsterInstance) -> tuple[int, int]:
    """Make the same queries twice; return how many statements the second time were, and how many of them questions."""
    statements = list[str]()
    for _ in range(2):
        statements.clear()
        with listening(engine, statements):
            instance.get_run_records()
            instance.all_instigator_state()
            assert instance.event_log_storage.has_table("kvs")  # type: ignore[attr-defined] # of storages in SQL
    about = [statement for statement in statements if "pg_catalog" in statement or "secondary_indexes" in statement]
    return len(statements), len(about)


@contextmanager
def listening(engine: Engine, statements: list[str]) -> Iterator[None]:
    """Append each statement."""

    def append(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(engine, "before_cursor_execute", append)
    yield
    event.remove(engine, "before_cursor_execute", append)


def test_a_complete_schema_is_read_once(dagster: DagsterWorld, engine: Engine, dagster_settings: Settings) -> None:
    """Not for each query, nor by the next instance of the process."""
    assert schema_queries(engine, dagster.instance) == (2, 0)
    statements = list[str]()
    with listening(engine, statements), open_instance(dagster_settings):
        assert statements == []


def test_a_schema_before_its_migration_is_read_each_time(
    dagster: DagsterWorld, dagster_settings: Settings, database_url: str
) -> None:
    """Dagster leaves out what it lacks; once it is complete, a new process no longer asks."""
    assert dagster.instance
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE dagster.backfill_tags DROP COLUMN value")
        dispose_engines()
        with open_instance(dagster_settings) as instance:
            assert schema_queries(engine_of(dagster_settings), instance)[1] > 0
        connection.execute("ALTER TABLE dagster.backfill_tags ADD COLUMN value text")
        dispose_engines()
        with open_instance(dagster_settings) as instance:
            assert schema_queries(engine_of(dagster_settings), instance) == (2, 0)
    dispose_engines()


def test_an_event_is_one_statement(dagster: DagsterWorld, engine: Engine) -> None:
    """Its INSERT: nobody listens to the NOTIFY of dagster-postgres, which is a transaction of its own."""
    run = dagster.instance.create_run_for_job(defs.resolve_job_def(flush_views.name))
    statements = list[str]()
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    dagster.instance.report_engine_event("something happened", run)
    assert [statement.partition(" (")[0] for statement in statements] == ["INSERT INTO event_logs"]
    assert dagster.instance.all_logs(run.run_id)[-1].message == "something happened"


def test_no_thread_waits_for_a_connection(engine: Engine) -> None:
    """Each of many gets one at once; afterwards one is kept."""
    with ExitStack() as stack:
        pids = [stack.enter_context(engine.connect()).execute(text("SELECT pg_backend_pid()")) for _ in range(20)]
        assert len({pid.scalar_one() for pid in pids}) == 20


def test_a_connection_that_the_server_closed(
    dagster: DagsterWorld, engine: Engine, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is replaced before a query uses it: no error, and no retry."""
    before = pid_of(engine)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(TERMINATE)
        wait_until(lambda: connection.execute(SESSIONS).fetchall() == [], 30, "the sessions have ended")
    assert dagster.instance.get_runs_count() == 0
    assert pid_of(engine) != before
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []


def test_a_forked_process_has_connections_of_its_own(engine: Engine) -> None:
    """It leaves those of its parent alone, also when it ends."""
    before = pid_of(engine)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(pid_of(engine)).encode())
        os._exit(0)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(reading) as pipe:
        assert int(pipe.read()) not in (0, before)
    assert pid_of(engine) == before


def test_tables_are_created_once(database_url: str, tmp_path: Path) -> None:
    """By several at once: all of dagster-postgres's, in the schema `dagster`, with its migrations marked as done."""
    settings = Settings(database_url=database_url, viewer_home=tmp_path)
    engine, barrier = engine_of(settings), threading.Barrier(4)

    def create(_: int) -> tuple[object, ...]:
        barrier.wait(ENOUGH)
        storage = PooledPostgresStorage(engine)
        return storage.run_storage.alembic_version() or ()

    with ThreadPoolExecutor(4) as pool:
        versions = set(pool.map(create, range(4)))
    assert len(versions) == 1
    current, newest = versions.pop()
    assert current == newest is not None
    with psycopg.connect(database_url) as connection:
        tables = connection.execute("SELECT schemaname, tablename FROM pg_tables WHERE tablename ~ 'run|event|job'")
        assert {("dagster", "runs"), ("dagster", "event_logs"), ("dagster", "jobs")} <= set(tables)
    dispose_engines()
