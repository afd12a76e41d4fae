"""One moment of the database, on a connection that is let take its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from viewer_pipeline.flush.ledger import postgres_errors
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.stores.postgres import ANSWER_SECONDS, allow_long_reads, open_connection, patient

PASS_SECONDS = 3600  # for one pass over everything: 10 million totals take a minute or two
MEMORY = "64MB"  # of the server for each sort or hash; what does not fit goes to its disk


@contextmanager
def snapshot(url: str) -> Iterator[psycopg.Connection]:
    """Open a transaction that reads everything as of one moment, and writes nothing. Driver errors come out as ours."""
    with postgres_errors(url), open_connection(PostgresUrl.of(url)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with patient(connection, PASS_SECONDS + ANSWER_SECONDS), connection.transaction():
            allow_long_reads(connection, PASS_SECONDS, MEMORY)
            yield connection


def streamed(connection: psycopg.Connection, statement: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a statement as they come: no more of them than a few are ever in memory."""
    with connection.cursor() as cursor:
        yield from cursor.stream(statement)
