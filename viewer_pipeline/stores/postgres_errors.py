"""Errors of PostgreSQL's drivers as ours: what may be tried again, what needs a person, and what that person can do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg
from psycopg.pq import Conninfo

from viewer_pipeline.errors import (
    PostgresFailed,
    PostgresRefusesWrites,
    PostgresUnavailable,
    SchemaMissing,
    ViewerPipelineError,
)
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.sql_identifiers import quoted
from viewer_pipeline.stores.known_errors import find_known_error
from viewer_pipeline.stores.known_postgres_errors import POSTGRES_ERRORS
from viewer_pipeline.stores.table_privileges_and_redis_commands import TABLE_PRIVILEGES

# They end a session that is in a transaction; another connection may succeed.
ENDED_SESSION = (pg.IdleInTransactionSessionTimeout, pg.TransactionTimeout)
# Errors that only a standby raises, by SQLSTATE and function of the server: the language of messages is a setting.
OF_STANDBYS = (("55000", "LockAcquireExtended"), ("0A000", "GetSerializableTransactionSnapshot"))
NAMES = ("user", "database", "schema")  # groups of the patterns that are identifiers
# One attempt of libpq, which tries every address of a host name, and each with and without TLS.
_ATTEMPT = re.compile(
    r'connection to server (?:at "(?P<host>[^"]*)"(?: \([^)]*\))?, port (?P<port>\d+)|'
    r'on socket "(?P<socket>[^"]*)") failed: (?P<reason>.*)'
)


@contextmanager
def postgres_errors(url: str, subject: str = "") -> Iterator[None]:
    """Raise psycopg's errors as ours, with the URL but without its password. `subject`: what the URL leads to."""
    try:
        yield
    except psycopg.Error as error:
        if _is_schema_missing(error):
            raise SchemaMissing(f"{_where(url, subject)}: {first_line(error)}") from error
        raise to_our_error(error, url, subject=subject) from error


def _is_schema_missing(error: psycopg.Error) -> bool:
    """Whether the schema is missing or too old. A function elsewhere may be one that a trigger of the user's calls."""
    if isinstance(error, pg.UndefinedFunction):
        return " viewer." in first_line(error)
    return isinstance(error, (pg.UndefinedTable, pg.InvalidSchemaName, pg.UndefinedColumn))


def to_our_error(error: BaseException, url: str, *, subject: str = "") -> ViewerPipelineError:
    """Return our error for one of psycopg or psycopg2, also where SQLAlchemy or Dagster wraps it."""
    error, where = _driver_error(error), _where(url, subject)
    if isinstance(error, psycopg.Error) and refuses_writes(error):
        return PostgresRefusesWrites(f"{where}: {first_line(error)}")
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
    known = find_known_error(POSTGRES_ERRORS, str(error), code)
    if known is not None:
        row, groups = known
        values = groups | {name: quoted(groups[name]) for name in NAMES if groups.get(name)}
        values["role"] = quoted(vars(error).get("role") or login_role(url))
        values["place"] = ", ".join(
            dict.fromkeys(place for place, reason in _attempts(error) if row.match(reason, code))
        )
        values["privileges"] = ", ".join(TABLE_PRIVILEGES.get(groups.get("table", ""), ()))
        return row.build_error(where, redact_text(_quotation(error)), values)
    ours = PostgresUnavailable if isinstance(error, ENDED_SESSION) or is_connection_lost(error) else PostgresFailed
    return ours(f"{where}: {redact_text(first_line(error))}")


def is_connection_lost(error: BaseException) -> bool:
    """Whether the connection broke, or may have: what the server did with the last statement is not known then.

    psycopg's own InternalError, which has no SQLSTATE, is about replies that do not fit: an error that a server or a
    pooler sends as its last word may arrive in one piece with a reply.
    """
    is_protocol_error = isinstance(error, psycopg.InternalError) and error.sqlstate is None
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) or is_protocol_error


def refuses_writes(error: psycopg.Error) -> bool:
    """Whether the server refuses writes; or, of several servers, none accepts them (`target_session_attrs`)."""
    if isinstance(error, pg.ReadOnlySqlTransaction) or (error.sqlstate, error.diag.source_function) in OF_STANDBYS:
        return True
    of_libpq = ("session is read-only", "server is in hot standby mode")
    return isinstance(error, psycopg.OperationalError) and str(error).rstrip().endswith(of_libpq)


def login_role(url: str) -> str:
    """Return the role that a URL logs in with; where it names none, the one that libpq takes."""
    default = next(option.val for option in Conninfo.get_defaults() if option.keyword == b"user")
    return PostgresUrl.of(url).parameters.get("user") or (default or b"").decode()


def first_line(error: BaseException) -> str:
    """Return the first line of a driver's message, or the name of the class."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _where(url: str, subject: str) -> str:
    return f"{subject}: {redact_text(url)}" if subject else redact_text(url)


def _driver_error(error: BaseException) -> BaseException:
    while not isinstance(error, psycopg.Error):
        inner = getattr(error, "orig", None) or error.__cause__
        if inner is None:
            break
        error = inner
    return error


def _attempts(error: BaseException) -> list[tuple[str, str]]:
    """Return each attempt to connect as the place and the reason of its failure, none twice."""
    attempts = [
        (attempt["socket"] or f"{attempt['host']}:{attempt['port']}", " ".join(attempt["reason"].split()))
        for attempt in _ATTEMPT.finditer(str(error))
    ]
    return list(dict.fromkeys(attempts))


def _quotation(error: BaseException) -> str:
    """Return what the server or libpq says, in one line; with the places, if several attempts failed differently."""
    attempts = _attempts(error)
    reasons = list(dict.fromkeys(reason for _, reason in attempts))
    if len(reasons) > 1:
        return "; ".join(f"{place}: {reason}" for place, reason in attempts)
    return reasons[0] if reasons else first_line(error)
