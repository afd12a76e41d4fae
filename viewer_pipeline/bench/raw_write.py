"""The references: rows that PostgreSQL writes alone, without ledger and Redis."""

from __future__ import annotations

import time

import psycopg

STAGE = "CREATE TEMP TABLE stage (vod_id text, delta bigint) ON COMMIT DROP"
COPY = "COPY stage (vod_id, delta) FROM STDIN (FORMAT BINARY)"


def time_raw_write(database_url: str, ids: list[str], deltas: list[int], statement: str) -> float:
    """Write the rows with PostgreSQL alone: binary COPY into the table `stage`, then one statement that reads it.

    Returns the duration without that of the connection.
    """
    with psycopg.connect(database_url) as connection:
        started = time.perf_counter()
        connection.execute(STAGE)
        with connection.cursor() as cursor, cursor.copy(COPY) as copy:
            copy.set_types(["text", "int8"])
            for row in zip(ids, deltas, strict=True):
                copy.write_row(row)
        connection.execute(statement)
        connection.commit()
        return time.perf_counter() - started
