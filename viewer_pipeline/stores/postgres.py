"""Connections to PostgreSQL with finite waits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import psycopg
from psycopg.abc import Buffer, PQGen
from psycopg.types.numeric import NumericLoader

from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.session_settings import STATEMENT_SECONDS, TIMEOUTS
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.named_queries import named_queries
from viewer_pipeline.stores.postgres_errors import postgres_errors, refuses_writes
from viewer_pipeline.stores.session import Session, SessionCursor

ARGUMENTS: Mapping[str, Any] = MappingProxyType(
    {
        "application_name": "viewer-pipeline",
        "client_encoding": "utf8",  # until session_settings are set: of an error at the start
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
)
DAGSTER_STORAGE = "Dagster's storage"
IN_RECOVERY, READ_ONLY = "it is in recovery (a standby)", "its transactions are read-only"

# The client waits longer than the statement_timeout of the server, so that the server's error arrives if it has one.
MARGIN = 1.25
REPLY_SECONDS = MARGIN * STATEMENT_SECONDS
POLL_SECONDS = 0.1
LONG_SECONDS = 3600  # for one statement over everything: 10 million rows take minutes
WORK_MEMORY = "64MB"  # of the server for each sort or hash of such a statement; the rest spills to its disk

SQL = named_queries(__name__)

T = TypeVar("T")


class WholeNumberLoader(NumericLoader):
    """Loads a numeric without decimal places as an int: a sum of bigints is one, and may be over bigint."""

    def load(self, data: Buffer) -> Any:
        """Return an int, or a Decimal where there are decimal places."""
        number = super().load(data)
        return number if number.as_tuple().exponent else int(number)


class BoundedConnection(Session):
    """Closes itself with an OperationalError if a reply takes longer than `reply_seconds`.

    libpq has no such time-out. statement_timeout is enforced by the server, which may be stopped; tcp_user_timeout by
    the kernel, which acknowledges what a stopped process does not read.
    """

    reply_seconds = REPLY_SECONDS

    def wait(self, gen: PQGen[T], interval: float = POLL_SECONDS, timeout: float | None = None) -> T:
        """Wait as psycopg does, for at most `reply_seconds`: every statement, COPY and COMMIT passes through here."""
        return super().wait(self._bounded(gen), interval, timeout)

    def _bounded(self, gen: PQGen[T]) -> PQGen[T]:
        """Pass on what psycopg waits for. It resumes this generator at every `interval`."""
        deadline = time.monotonic() + self.reply_seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.close()
                    raise psycopg.OperationalError(f"no answer within {self.reply_seconds:g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result
        except psycopg.Error as error:
            vars(error)["role"] = self.role  # for to_our_error
            if refuses_writes(error):  # the address may lead to another server by now
                self.close()
            raise


def read_only_reason(connection: psycopg.Connection) -> str:
    """Return why the server takes no writes; empty if it does.

    By a query, although PostgreSQL 14 and newer report both on each connection: a pooler passes on what the first
    server reported that it ever connected to, long after the address leads to another one.
    """
    standby, read_only = connection.execute(SQL["is_read_only"]).fetchone() or (False, False)
    return IN_RECOVERY if standby else READ_ONLY if read_only else ""


@contextmanager
def long_transaction(connection: psycopg.Connection) -> Iterator[None]:
    """Open a transaction whose statements may take LONG_SECONDS, and sort and hash in WORK_MEMORY."""
    with with_reply_timeout(connection, LONG_SECONDS + REPLY_SECONDS), connection.transaction():
        connection.execute(SQL["allow_long_reads"], {"timeout": f"{LONG_SECONDS}s", "memory": WORK_MEMORY})
        yield


@contextmanager
def open_snapshot(url: str) -> Iterator[psycopg.Connection]:
    """Open a long read-only transaction that sees everything as of one moment. Driver errors are raised as ours."""
    with postgres_errors(url), open_connection(PostgresUrl.of(url)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with long_transaction(connection):
            yield connection


@contextmanager
def with_reply_timeout(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Wait this long for each answer. The caller sets the server's own time-out, a little shorter."""
    assert isinstance(connection, BoundedConnection), "from open_connection"
    before = connection.reply_seconds
    connection.reply_seconds = seconds
    try:
        yield
    finally:
        connection.reply_seconds = before


def open_connection(url: PostgresUrl, seconds: float | None = None) -> BoundedConnection:
    """Open an autocommit connection with our settings and finite waits. Raises psycopg's errors, and SessionUnusable.

    `seconds`: of each statement and of its wait for locks, in place of those of the URL.
    """
    timeouts, reply_seconds = dict(TIMEOUTS), BoundedConnection.reply_seconds
    if seconds is not None:
        timeouts |= dict.fromkeys(("statement_timeout", "lock_timeout"), f"{seconds:.0f}s")
        reply_seconds = MARGIN * seconds
    elif url.reply_seconds is not None:
        statement_seconds = min(STATEMENT_SECONDS, url.reply_seconds)
        timeouts["statement_timeout"] = f"{statement_seconds:.0f}s"
        reply_seconds = max(url.reply_seconds, MARGIN * statement_seconds)
    connection = BoundedConnection.connect(autocommit=True, cursor_factory=SessionCursor, **url.arguments(ARGUMENTS))
    connection.adapters.register_loader("numeric", WholeNumberLoader)
    connection.reply_seconds = reply_seconds
    # A flush succeeds although a row was edited meanwhile; at a higher level, which a role may set, it would fail.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    settings = url.session_settings(timeouts)
    try:
        if url.pgbouncer:
            connection.set_settings_of_transactions(settings)
        else:
            connection.set_settings(settings)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def connect_dagster_storage(settings: Settings) -> Iterator[psycopg.Connection]:
    """Open a connection to Dagster's storage, without SQLAlchemy."""
    url = settings.require_dagster_database_url()
    with postgres_errors(url, DAGSTER_STORAGE), open_connection(settings.dagster_storage_url()) as connection:
        yield connection
