"""Texts of PostgreSQL, PgBouncer, libpq and psycopg, as they came from real ones, become our errors."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors as pg
from sqlalchemy import exc

from viewer_pipeline.errors import PostgresFailed, PostgresUnavailable, SettingsError
from viewer_pipeline.stores.known_errors import find_known_error
from viewer_pipeline.stores.known_postgres_errors import POSTGRES_ERRORS
from viewer_pipeline.stores.postgres_errors import to_our_error

URL = "postgresql://me:s3cret@db:5432/views"
SERVER = 'connection failed: connection to server at "db" (10.0.0.1), port 5432 failed: '

SECOND = '\nconnection to server at "db" (10.0.0.1), port 5432 failed: '
NO_ENTRY = 'FATAL:  no pg_hba.conf entry for host "10.0.0.2", user "me", database "views"'

# What failed connections say, and the beginning of our sentence.
CONNECTING = [
    (
        "FATAL:  server login has been failing, cached error: connect failed (server_login_retry)",
        "PgBouncer cannot log",
    ),
    ("FATAL:  pgbouncer cannot connect to server", "PgBouncer cannot log in"),
    ('FATAL:  password authentication failed for user "me"', 'wrong password, or there is no role "me"'),
    ("FATAL:  password authentication failed", 'wrong password, or there is no role "me"'),
    ("FATAL:  SASL authentication failed", "wrong password"),
    ("FATAL:  Tenant or user not found", "wrong password"),  # Supavisor
    ('FATAL:  LDAP authentication failed for user "me"', "wrong password"),
    ('FATAL:  Peer authentication failed for user "me"', "wrong password"),
    ("fe_sendauth: no password supplied", 'a password is required for role "me"'),
    ('FATAL:  role "a "b" does not exist', 'there is no role "a ""b"'),
    ('FATAL:  role "me" is not permitted to log in', 'role "me" may not log in'),
    (
        f"{NO_ENTRY}, no encryption",
        "pg_hba.conf does not admit this client, user and database without TLS",
    ),
    (
        'FATAL:  pg_hba.conf rejects connection for host "10.0.0.2", user "me", database "views", SSL off',
        "pg_hba.conf does not admit this client, user and database without TLS",
    ),
    (
        f"{NO_ENTRY}, SSL encryption{SECOND}{NO_ENTRY}, no encryption",
        "pg_hba.conf does not admit this client, user and database (",
    ),
    (
        f'FATAL:  password authentication failed for user "me"{SECOND}{NO_ENTRY}, SSL off',
        "wrong password",
    ),
    ('FATAL:  database "views" does not exist', 'there is no database "views"'),
    ("FATAL:  no such database: views", 'PgBouncer knows no database "views"'),
    ('FATAL:  database "views" is not currently accepting connections', "the connection was refused (FATAL: database"),
    (
        'FATAL:  permission denied for database "views"\nDETAIL:  User does not have CONNECT privilege.',
        'role "me" may not connect to database "views"',
    ),
    ("server does not support SSL, but SSL was required", "the URL requires TLS"),
    ("channel binding required, but SSL not in use", "the URL requires TLS"),
    ("SSL error: certificate verify failed", "the authority that signed"),
    ('server certificate for "a" (and 1 other name) does not match host name "db"', "the certificate of the server is"),
    ('root certificate file "/ca.pem" does not exist', "a certificate or key file"),
    ('could not load private key file "/key.pem": bad decrypt', "a certificate or key file"),
    ("FATAL:  connection requires a valid client certificate", "the server requires a certificate"),
    ("SSL error: tlsv1 alert protocol version", "client and server did not agree on TLS"),
    ("received invalid response to SSL negotiation: H", "what listens on db:5432 is no PostgreSQL"),
    ('FATAL:  unrecognized configuration parameter "foo"', "PostgreSQL does not accept a setting"),
    ("FATAL:  unsupported startup parameter: options", "the pooler refuses a startup parameter"),
    ('invalid sslmode value: "foo"', "the URL has a parameter with an invalid value"),
    ("FATAL:  the database system is starting up", "PostgreSQL is starting or stopping"),
    ("FATAL:  the database system is shutting down", "PostgreSQL is starting or stopping"),
    ("FATAL:  the database system is in recovery mode", "PostgreSQL is starting or stopping"),
    ("FATAL:  the database system is not yet accepting connections", "PostgreSQL is starting or stopping"),
    ("FATAL:  the database system is not accepting connections", "PostgreSQL is starting or stopping"),
    ("FATAL:  sorry, too many clients already", "PostgreSQL takes no more connections"),
    (
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "PostgreSQL takes no more connections",
    ),
    ('FATAL:  too many connections for role "me"', "PostgreSQL takes no more connections"),
    ("FATAL:  no more connections allowed (max_client_conn)", "PostgreSQL takes no more connections"),
    (
        "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
        "nothing listens on db:5432 (Connection refused)",
    ),
    ("Connection timed out", "no answer from the host"),
    ("Network is unreachable", "no answer from the host"),
    ("server closed the connection unexpectedly", "the connection broke"),
    ("SSL SYSCALL error: EOF detected", "the connection broke"),
    ("FATAL:  Passwort-Authentifizierung für Benutzer »me« fehlgeschlagen", "the connection was refused (FATAL: Pass"),
]
OTHERS = [
    ("failed to resolve host 'db': [Errno -2] Name or service not known", "the host name of the URL"),
    ("connection timeout expired", "no answer from the host"),
    ("no answer within 75 s", "the server is connected and does not answer"),
    ("the connection is closed", "the connection broke"),
    ('connection is bad: invalid port number: "99999"', "the URL has a parameter with an invalid value"),
    (
        'connection is bad: connection to server on socket "/nowhere/.s.PGSQL.5432" failed: No such file or directory',
        "nothing listens on /nowhere/.s.PGSQL.5432",
    ),
]
# SQLSTATE, text and the beginning of our sentence.
STATEMENTS = [
    ("08P01", "server login has been failing, try again later (server_login_retry)", "PgBouncer cannot log in"),
    ("08P01", "query_wait_timeout", "PgBouncer had no free connection in time"),
    ("42501", "permission denied for database views", 'role "me" may not create schemas in database "views"'),
    ("42501", "permission denied for schema viewer\nLINE 1: …", 'role "me" may not use schema viewer'),
    ("42501", "permission denied for schema public", 'role "me" may not use schema "public", or create tables in it'),
    ("42501", "permission denied for table flush", 'role "me" may not use table viewer.flush'),
    ("42501", "permission denied for table Vod", 'role "me" lacks a right (permission denied for table Vod)'),
    ("42501", "keine Berechtigung für Schema viewer", 'role "me" lacks a right (keine Berechtigung'),
    ("42501", "must be owner of table flush", 'role "me" is not the owner of table flush'),
    ("3F000", "no schema has been selected to create in", "the schema for Dagster's tables is missing (no schema"),
    ("42704", 'unrecognized configuration parameter "foo"', "a configuration parameter is unknown"),
    ("55P02", 'parameter "log_connections" cannot be set after connection start', "a configuration parameter is"),
    ("53100", "could not extend file", "its disk is full"),
    ("53300", "too many connections", "PostgreSQL takes no more connections"),
    ("57P01", "terminating connection due to administrator command", "PostgreSQL is stopping, or somebody ended"),
    ("40P01", "deadlock detected", "another transaction was in the way"),
    ("55P03", "canceling statement due to lock timeout", "a lock was not free in time"),
    ("57014", "canceling statement due to statement timeout", "a statement or transaction took too long"),
]


@pytest.mark.parametrize(("text", "sentence"), [(SERVER + text, sentence) for text, sentence in CONNECTING] + OTHERS)
def test_failed_connections(text: str, sentence: str) -> None:
    """One line, with a remedy, also where SQLAlchemy wraps it; the password is in neither."""
    error = psycopg.OperationalError(text)
    for error_or_wrapper in (error, exc.OperationalError("SELECT 1", {}, error)):
        ours = to_our_error(error_or_wrapper, URL)
        assert f"postgresql://me:***@db:5432/views: {sentence}" in str(ours)
        assert ours.remedy
        assert "{" not in ours.remedy
        assert "\n" not in str(ours)


@pytest.mark.parametrize(("code", "text", "sentence"), STATEMENTS)
def test_failed_statements(code: str, text: str, sentence: str) -> None:
    """By SQLSTATE; the text of an English server names the object as well."""
    ours = to_our_error(pg.lookup(code)(text), URL)
    assert f"postgresql://me:***@db:5432/views: {sentence}" in str(ours)
    assert "{" not in ours.remedy


def test_every_row_describes_some_text() -> None:
    """None is hidden by an earlier one."""
    connecting = [find_known_error(POSTGRES_ERRORS, SERVER + text) for text, _ in CONNECTING]
    connecting += [find_known_error(POSTGRES_ERRORS, text) for text, _ in OTHERS]
    statements = [find_known_error(POSTGRES_ERRORS, text, code) for code, text, _ in STATEMENTS]
    reached = {id(match[0]) for match in connecting + statements if match is not None}
    assert [row for row in POSTGRES_ERRORS if id(row) not in reached] == []


def test_other_errors() -> None:
    """What no row describes keeps its text, and is tried again only if another connection may succeed."""
    refused = to_our_error(pg.CheckViolation("violates check constraint"), URL)
    assert (type(refused), refused.remedy) == (PostgresFailed, "")
    assert type(to_our_error(psycopg.InterfaceError("odd"), URL)) is PostgresUnavailable
    of_psycopg = psycopg.InternalError("received 2 results from command 'COMMIT'")  # seen behind PgBouncer
    assert type(to_our_error(of_psycopg, URL)) is PostgresUnavailable
    assert type(to_our_error(pg.DataCorrupted("of the server"), URL)) is PostgresFailed
    assert "password=***" in str(to_our_error(psycopg.OperationalError("invalid password=s3cret"), URL))


def test_several_addresses_are_one_line() -> None:
    """Each is named with its reason, none twice."""
    text = (
        f"{SERVER}Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?\n"
        'connection to server at "standby", port 5433 failed: FATAL:  database "views" does not exist\n'
        f"Multiple connection attempts failed. All failures were:\n- host: 'db': {SERVER}Connection refused\n"
    )
    ours = str(to_our_error(psycopg.OperationalError(text), URL))
    assert ours.endswith('(db:5432: Connection refused; standby:5433: FATAL: database "views" does not exist)')


def test_a_remedy_is_a_note_too() -> None:
    """Dagster's UI shows the notes of an exception."""
    assert SettingsError("no", "yes").__notes__ == ["remedy: yes"]
    assert not hasattr(SettingsError("no"), "__notes__")
