"""A read-only snapshot of the database, on a connection with time for long queries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.stores.postgres import long_transaction, open_connection
from viewer_pipeline.stores.postgres_errors import postgres_errors

READ_SECONDS = 3600  # for one read of everything: 10 million totals take a minute or two
MEMORY = "64MB"  # of the server for each sort or hash; the rest spills to its disk


@contextmanager
def open_snapshot(url: str) -> Iterator[psycopg.Connection]:
    """Open a read-only transaction that sees everything as of one moment. Driver errors are raised as ours."""
    with postgres_errors(url), open_connection(PostgresUrl.of(url)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with long_transaction(connection, READ_SECONDS, MEMORY):
            yield connection
