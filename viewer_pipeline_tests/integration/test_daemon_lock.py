"""The lock of the `up` that runs Dagster's daemon: refused to others, released with its session, taken again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from viewer_pipeline.errors import DaemonRuns, PostgresRefusesConnections
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack import daemon_lock
from viewer_pipeline.stack.daemon_lock import LOCK_CLASS, SESSION_NAME, DaemonLock, require_no_up_on_servers
from viewer_pipeline_tests.support.pgbouncer import PgBouncer
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until

HOLDERS = """
    SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND datname = current_database()
        AND application_name LIKE 'viewer-pipeline up%'
"""
ADVISORY_LOCKS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND datname = current_database()
"""


@pytest.fixture
def observer(database_url: str) -> Iterator[psycopg.Connection]:
    """Another session of the same database."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def settings(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose Dagster storage is the schema `dagster`; locks are checked often."""
    monkeypatch.setattr(daemon_lock, "CHECK_SECONDS", 0.05)
    return Settings(_env_file=None, database_url=database_url)


def holders(observer: psycopg.Connection) -> list[int]:
    """Return the backends that hold a lock of an `up`."""
    return [pid for (pid,) in observer.execute(HOLDERS)]


def test_second_lock_is_refused(settings: Settings) -> None:
    """The error names process, machine and time of the first, and the command for an additional worker."""
    first, second, third = (DaemonLock(settings) for _ in range(3))
    first.acquire()
    try:
        with pytest.raises(DaemonRuns, match=rf"{SESSION_NAME}, process {os.getpid()} on \S+ since 20\S+Z") as refused:
            second.acquire()
        assert "run `viewer-pipeline worker` here" in refused.value.remedy
        with pytest.raises(DaemonRuns, match=rf"{SESSION_NAME}, process {os.getpid()} on "):
            require_no_up_on_servers(settings)
    finally:
        first.release()
        second.release()
    third.acquire()
    third.release()


def test_storage_that_refuses_the_login(settings: Settings) -> None:
    """The lock is the first thing that `up` does there, so its error has the sentence and the remedy."""
    login = "postgresql://nobody:wr0ng@"
    url = login + settings.require_database_url().partition("@")[2]
    with pytest.raises(PostgresRefusesConnections, match=r"Dagster's storage: .*there is no role") as refused:
        DaemonLock(settings.copy_unvalidated(dagster_database_url=url)).acquire()
    assert "wr0ng" not in str(refused.value)
    assert refused.value.remedy.startswith("correct user and password in the URL")


def test_storages_have_locks_of_their_own(settings: Settings) -> None:
    """A daemon for each Dagster storage: another schema is another one."""
    url = settings.require_database_url()
    locks = [DaemonLock(settings), DaemonLock(settings.copy_unvalidated(dagster_database_url=f"{url}?schema=other"))]
    for lock in locks:
        lock.acquire()
    for lock in locks:
        lock.release()


def test_lock_is_taken_again(settings: Settings, observer: psycopg.Connection) -> None:
    """After its session was ended; also once another `up` that was faster has released it."""
    lock, other = DaemonLock(settings), DaemonLock(settings)
    lock.acquire()
    try:
        (before,) = holders(observer)
        observer.execute("SELECT pg_terminate_backend(%s)", [before])
        wait_until(lambda: holders(observer) not in ([], [before]), 20, "the lock is held by another session")

        def take_from_the_first() -> bool:
            observer.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [holders(observer)])
            try:
                other.acquire()
            except DaemonRuns:
                return False
            return True

        wait_until(take_from_the_first, 20, "the other was faster")
        (of_other,) = holders(observer)
        other.release()
        wait_until(lambda: holders(observer) not in ([], [of_other]), 20, "taken again")
    finally:
        lock.release()
        other.release()
    wait_until(lambda: holders(observer) == [], 20, "no session is left")


def test_lock_of_another_program(settings: Settings, observer: psycopg.Connection) -> None:
    """A session with another name does not keep `up` from starting: it may be a lock that a pooler left behind."""
    observer.execute("SELECT pg_advisory_lock(%s, hashtext('dagster'))", [LOCK_CLASS])
    lock = DaemonLock(settings)
    lock.acquire()
    try:
        assert holders(observer) == []
        observer.execute("SELECT pg_advisory_unlock_all()")
        wait_until(lambda: len(holders(observer)) == 1, 20, "the lock is taken once it is free")
    finally:
        lock.release()


def test_storage_behind_a_pooler(settings: Settings, observer: psycopg.Connection, servers_home: Path) -> None:
    """Nothing is locked: the lock would stay in a session of the pooler after `up` has ended, and refuse the next."""
    bouncer = PgBouncer(servers_home / "pgbouncer", settings.require_database_url())
    bouncer.start()
    try:
        locks = [
            DaemonLock(settings.copy_unvalidated(dagster_database_url=bouncer.url("schema=dagster"))) for _ in "12"
        ]
        for lock in locks:
            lock.acquire()
        assert observer.execute(ADVISORY_LOCKS).fetchone() == (0,)
        for lock in locks:
            lock.release()
    finally:
        bouncer.stop()


def test_session_ends_when_its_machine_dies(settings: Settings) -> None:
    """PostgreSQL tests the connection by TCP keepalives, and gives up within 25 s; it never ends it as idle."""
    lock = DaemonLock(settings)
    lock.acquire()
    try:
        assert lock._connection is not None
        names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "idle_session_timeout")
        values: list[Any] = [lock._connection.execute(f"SHOW {name}").fetchone() for name in names]
    finally:
        lock.release()
    assert values == [("10",), ("5",), ("3",), ("0",)]


def test_release_does_not_wait_for_a_silent_postgres(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop of `up` has a time limit, and the servers are stopped after the lock is released."""
    monkeypatch.setattr(daemon_lock, "REPLY_SECONDS", 2 * ENOUGH)
    url = settings.require_database_url()
    with Proxy.of(url, 5432) as proxy:
        lock = DaemonLock(settings.copy_unvalidated(database_url=proxy.url(url)))
        lock.acquire()
        proxy.blackhole()
        held = lock._connection
        assert held is not None
        wait_until(lambda: held.pgconn.transaction_status == TransactionStatus.ACTIVE, 20, "a check without a reply")
        lock.release()
        assert lock._thread.is_alive()  # it still waits for the reply
