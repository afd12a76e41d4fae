"""PostgreSQL's errors as ours: what may be retried, and what needs a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg

from viewer_pipeline.errors import (
    PostgresFailed,
    PostgresRefusesWrites,
    PostgresUnavailable,
    SchemaMissing,
    ViewerPipelineError,
)
from viewer_pipeline.redaction import without_password
from viewer_pipeline.stores.postgres import refuses_writes

# After any of these another connection may succeed. The last two end a session that is in a transaction.
UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    pg.IdleInTransactionSessionTimeout,
    pg.TransactionTimeout,
)


@contextmanager
def postgres_errors(url: str) -> Iterator[None]:
    """Raise psycopg's errors as ours, with the URL but without its password."""
    where = without_password(url)
    try:
        yield
    except (pg.UndefinedTable, pg.InvalidSchemaName, pg.UndefinedColumn) as error:
        raise SchemaMissing(f"{where}: {first_line(error)}") from error
    except psycopg.Error as error:
        ours: type[ViewerPipelineError] = PostgresFailed
        if refuses_writes(error):
            ours = PostgresRefusesWrites
        elif isinstance(error, UNAVAILABLE):
            ours = PostgresUnavailable
        raise ours(f"{where}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return the first line of a driver's message, or the name of the class."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
