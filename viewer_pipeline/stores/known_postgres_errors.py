"""What PostgreSQL, PgBouncer and libpq report where somebody or time must help: one sentence and remedy for each.

A failed connection has no SQLSTATE: libpq does not pass it on. So its English text is matched; that of a server which
speaks another language is quoted. docs/how-to/connection-errors.md has the same rows; a test compares them.
"""

from __future__ import annotations

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import (
    PostgresDeniesRight,
    PostgresFailed,
    PostgresRefusesConnections,
    PostgresRefusesWrites,
    PostgresUnavailable,
    TransactionAborted,
)
from viewer_pipeline.stores.known_errors import KnownError
from viewer_pipeline.stores.table_privileges_and_redis_commands import TABLE_PRIVILEGES

GRANTS = f"`{command_to_type('grants')}` prints all rights that are needed"
LOGIN = "correct user and password in the URL, or ALTER ROLE … PASSWORD; a character such as @ or / must be %-encoded"
CERTIFICATE = "correct sslrootcert, sslcert, sslkey in the URL: certificates and a key that this process can read"
SLOTS = "none if it passes; else raise the limit, or close connections of others (pg_stat_activity)"
LOGS = "none if it passes; else check that the server runs, and read its log"
PASSES = "none: the next attempt continues; if it repeats, read the log of PostgreSQL"

# The order matters: after a failure over TLS, libpq tries again without, and reports both. The first row that matches
# any of them is taken, so a wrong password comes before a missing line in pg_hba.conf.
CONNECT_ERRORS = (
    KnownError(
        "server login has been failing|pgbouncer cannot connect to server",
        PostgresUnavailable,
        "PgBouncer cannot log in at its server",
        "none if PostgreSQL restarts; else correct host, user and password in the configuration of PgBouncer",
        ("", "08P01"),
    ),
    KnownError(
        "query_wait_timeout",
        PostgresUnavailable,
        "PgBouncer had no free connection in time",
        "none if it passes; else check whether PostgreSQL answers, and raise default_pool_size",
        ("08P01",),
    ),
    KnownError(
        r"password authentication failed|SASL authentication failed|no such user|Tenant or user not found|"
        r"(?:LDAP|PAM|RADIUS|BSD|GSSAPI|SSPI|Ident|Peer|certificate|OAuth bearer) authentication failed",
        PostgresRefusesConnections,
        "wrong password, or there is no role {role}",
        LOGIN,
    ),
    KnownError(
        "no password supplied",
        PostgresRefusesConnections,
        "a password is required for role {role}, and none is given",
        "write it into the URL (postgresql://user:password@host/database), or into PGPASSWORD or ~/.pgpass",
    ),
    KnownError(
        'role "(?P<user>.*)" does not exist',
        PostgresRefusesConnections,
        "there is no role {user}",
        "correct the user in the URL, or CREATE ROLE {user} LOGIN PASSWORD …",
    ),
    KnownError(
        'role "(?P<user>.*)" is not permitted to log in',
        PostgresRefusesConnections,
        "role {user} may not log in",
        "ALTER ROLE {user} LOGIN",
    ),
    KnownError(
        r"\A(?![\s\S]*(?:, SSL encryption|, SSL on))[\s\S]*(?:no pg_hba.conf entry|pg_hba.conf rejects) .*"
        r"(?:, no encryption|, SSL off)",
        PostgresRefusesConnections,
        "pg_hba.conf does not admit this client, user and database without TLS",
        "if the server offers TLS, add sslmode=require to the URL; else add a line to pg_hba.conf and reload",
    ),
    KnownError(
        "no pg_hba.conf entry|pg_hba.conf rejects",
        PostgresRefusesConnections,
        "pg_hba.conf does not admit this client, user and database",
        "add a line for them to pg_hba.conf and reload, or correct user and database in the URL",
    ),
    KnownError(
        'database "(?P<database>.*)" does not exist',
        PostgresRefusesConnections,
        "there is no database {database}",
        "correct the database in the URL, or CREATE DATABASE {database}",
    ),
    KnownError(
        "no such database: (?P<database>.*)",
        PostgresRefusesConnections,
        "PgBouncer knows no database {database}",
        "correct the database in the URL, or add it to [databases] in the configuration of PgBouncer",
    ),
    KnownError(
        'permission denied for database "(?P<database>.*)"',
        PostgresRefusesConnections,
        "role {role} may not connect to database {database}",
        "GRANT CONNECT ON DATABASE {database} TO {role}",
    ),
    KnownError(
        "server does not support SSL|channel binding required",
        PostgresRefusesConnections,
        "the URL requires TLS, and the server does not offer it",
        "set ssl = on with a certificate on the server; inside a trusted network, sslmode=disable in the URL",
    ),
    KnownError(
        "certificate verify failed",
        PostgresRefusesConnections,
        "the authority that signed the certificate of the server is not trusted",
        "name its certificate in the URL (sslrootcert=…), or renew a certificate that has expired",
    ),
    KnownError(
        "server certificate for .* does not match host name",
        PostgresRefusesConnections,
        "the certificate of the server is for another host name",
        "use a host name of the certificate in the URL, or sslmode=verify-ca",
    ),
    KnownError(
        "(?:root certificate|certificate|private key) file .*|certificate present, but not private key",
        PostgresRefusesConnections,
        "a certificate or key file of the URL cannot be used",
        CERTIFICATE,
    ),
    KnownError(
        "requires a valid client certificate|certificate required",
        PostgresRefusesConnections,
        "the server requires a certificate of the client",
        "name certificate and key in the URL: sslcert=…&sslkey=…",
    ),
    KnownError(
        "SSL error: .*(?:alert|wrong version number|unsupported|no protocols available)",
        PostgresRefusesConnections,
        "client and server did not agree on TLS",
        "compare ssl_min_protocol_version and ssl_ca_file of the server with the certificate of the client",
    ),
    KnownError(
        "received invalid response to SSL negotiation|expected authentication request|unsupported frontend protocol",
        PostgresRefusesConnections,
        "what listens on {place} is no PostgreSQL",
        "correct host and port in the URL",
    ),
    KnownError(
        "unrecognized configuration parameter|invalid value for parameter|invalid command-line argument",
        PostgresRefusesConnections,
        "PostgreSQL does not accept a setting of the URL or the environment",
        "correct `options` in the URL, and PGTZ and PGDATESTYLE in the environment",
    ),
    KnownError(
        "unsupported startup parameter",
        PostgresRefusesConnections,
        "the pooler refuses a startup parameter of the URL",
        "remove it from `options` in the URL, or add it to ignore_startup_parameters in the configuration of PgBouncer",
    ),
    KnownError(
        "invalid .*value|invalid port number",
        PostgresRefusesConnections,
        "the URL has a parameter with an invalid value",
        "correct it in the URL",
    ),
    KnownError(
        "starting up|shutting down|in recovery mode|system is not (?:yet )?accepting connections",
        PostgresUnavailable,
        "PostgreSQL is starting or stopping",
        LOGS,
    ),
    KnownError(
        "too many clients|connection slots are reserved|too many connections|no more connections allowed",
        PostgresUnavailable,
        "PostgreSQL takes no more connections",
        SLOTS,
    ),
    KnownError(
        "could not translate host name|failed to resolve host",
        PostgresUnavailable,
        "the host name of the URL cannot be resolved",
        "correct the host in the URL; if it is right, check the name server of this machine",
    ),
    KnownError(
        "Connection refused|No such file or directory",
        PostgresUnavailable,
        "nothing listens on {place}",
        "start PostgreSQL, correct host and port in the URL, or set listen_addresses on the server",
    ),
    KnownError(
        "No route to host|Network is unreachable|connection timeout expired|timeout expired|timed out",
        PostgresUnavailable,
        "no answer from the host of the URL",
        "check host, port, network and firewall; the server may be stopped or overloaded",
    ),
    KnownError(
        "no answer within",
        PostgresUnavailable,
        "the server is connected and does not answer",
        "check whether it hangs or is overloaded, and the network; see its log and pg_stat_activity",
    ),
    KnownError(
        "closed the connection unexpectedly|SSL connection has been closed|EOF detected|Connection reset|Broken pipe|"
        "could not receive data from server|could not send data to server|connection is closed|connection is lost",
        PostgresUnavailable,
        "the connection broke",
        LOGS,
    ),
    KnownError(
        "connection (?:to server .* )?(?:failed|is bad):",
        PostgresUnavailable,
        "the connection was refused",
        "do what the quoted text asks for; the log of PostgreSQL may have more",
    ),
)

# With their SQLSTATE. Triggers and conditions of the user's table can fail in the same way as statements of ours.
STATEMENT_ERRORS = (
    KnownError(
        "no schema has been selected to create in",
        PostgresFailed,
        "the schema for Dagster's tables is missing",
        f"run `{command_to_type('migrate')}`",
        ("3F000",),
    ),
    KnownError(
        "unrecognized configuration parameter|invalid value for parameter|parameter .* cannot be (?:set|changed)",
        PostgresFailed,
        "a configuration parameter is unknown, or cannot have this value",
        "correct `options` in the URL; if a trigger reads the parameter, let it use current_setting(name, true)",
        ("42704", "22023", "55P02"),
    ),
    KnownError(
        'permission denied for database "?(?P<database>.*?)"?$',
        PostgresDeniesRight,
        "role {role} may not create schemas in database {database}",
        "GRANT CREATE ON DATABASE {database} TO {role}",
        ("42501",),
    ),
    KnownError(
        "permission denied for schema viewer$",
        PostgresDeniesRight,
        "role {role} may not use schema viewer",
        "GRANT USAGE ON SCHEMA viewer TO {role}; " + GRANTS,
        ("42501",),
    ),
    KnownError(
        "permission denied for schema (?P<schema>.*)$",
        PostgresDeniesRight,
        "role {role} may not use schema {schema}, or create tables in it",
        "GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}",
        ("42501",),
    ),
    KnownError(
        f"permission denied for (?:table|relation) (?P<table>{'|'.join(TABLE_PRIVILEGES)})$",
        PostgresDeniesRight,
        "role {role} may not use table viewer.{table}",
        "GRANT {privileges} ON viewer.{table} TO {role}; " + GRANTS,
        ("42501",),
    ),
    KnownError(
        "must be owner of (?P<object>.*)$",
        PostgresDeniesRight,
        "role {role} is not the owner of {object}",
        f"run `{command_to_type('migrate')}` with the role that ran it first, or as a superuser",
        ("42501",),
    ),
    KnownError(
        "",
        PostgresDeniesRight,
        "role {role} lacks a right",
        "grant what the quoted text names; " + GRANTS,
        ("42501",),
    ),
    KnownError(
        "",
        PostgresRefusesWrites,
        "its disk is full",
        "make room on the disk of PostgreSQL; flushes continue by themselves",
        ("53100",),
    ),
    KnownError("", PostgresUnavailable, "PostgreSQL takes no more connections", SLOTS, ("53300",)),
    KnownError(
        "",
        PostgresUnavailable,
        "PostgreSQL is stopping, or somebody ended this connection",
        LOGS,
        ("57P01", "57P02", "57P03", "57P04", "57P05"),
    ),
    KnownError("", TransactionAborted, "another transaction was in the way", PASSES, ("40001", "40P01")),
    KnownError(
        "",
        TransactionAborted,
        "a lock was not free in time",
        "none if it passes; else find who holds it: pg_blocking_pids(), pg_stat_activity",
        ("55P03",),
    ),
    KnownError(
        "",
        TransactionAborted,
        "a statement or transaction took too long, or somebody cancelled it",
        "none if it passes; else find out why the server is slow: pg_stat_activity",
        ("57014", "25P03", "25P04"),
    ),
)

POSTGRES_ERRORS = (*CONNECT_ERRORS, *STATEMENT_ERRORS)
