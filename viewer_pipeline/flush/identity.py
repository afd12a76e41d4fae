"""Which ledger this is: what keeps two databases from settling the same counters.

A ledger has a random id, made by the migration; a restored dump or a clone has the same. So PostgreSQL's system
identifier and the database's oid belong to it as well: a dump that is restored, and a database made from a template,
have others. A physical copy has all three; `check_history` in ownership.py tells that apart by its flushes.
"""

from __future__ import annotations

from typing import NamedTuple

import psycopg
from psycopg import errors as pg

from viewer_pipeline.errors import SchemaMissing
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.stores.queries import named_queries

SQL = named_queries(__name__)

UNKNOWN = "unknown"  # the system identifier, where this role may not read it


class LedgerIdentity(NamedTuple):
    """One ledger. `place` is for people: host, port and name of its database, as this process reaches it."""

    ledger_id: str
    system: str
    database_oid: int
    place: str

    @property
    def key(self) -> str:
        """Return it in one word, as Redis keeps it: `ledger id/system identifier/database oid`."""
        return f"{self.ledger_id}/{self.system}/{self.database_oid}"


NO_LEDGER = LedgerIdentity("", UNKNOWN, 0, "")


def read_identity(connection: psycopg.Connection, url: str) -> LedgerIdentity:
    """Read it. Raises SchemaMissing where the migration that makes the id has not run."""
    row = connection.execute(SQL["ledger_identity"]).fetchone()
    if row is None:
        raise SchemaMissing("viewer.ledger is empty")
    ledger_id, oid, may_read_system = row
    system = _system_identifier(connection) if may_read_system else UNKNOWN
    return LedgerIdentity(ledger_id, system, oid, PostgresUrl.of(url).place)


def _system_identifier(connection: psycopg.Connection) -> str:
    """Read it in a statement of its own: where the right is missing, naming the function is refused."""
    try:
        row = connection.execute(SQL["system_identifier"]).fetchone()
    except pg.InsufficientPrivilege:
        return UNKNOWN
    return str(row[0]) if row else UNKNOWN
