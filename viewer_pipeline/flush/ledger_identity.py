"""The identity of a ledger: it keeps two databases from settling the same counters.

A ledger has a random id, created by the migration; a restored dump or a clone has the same. So PostgreSQL's system
identifier and the database's oid are part of the identity: they differ in a restored dump and in a database created
from a template. A physical copy has all three; marker_ownership.py recognizes it by its flushes.
"""

from __future__ import annotations

from typing import NamedTuple

import psycopg
from psycopg import errors as pg

from viewer_pipeline.errors import SchemaMissing
from viewer_pipeline.stores.named_queries import fetch_one, named_queries

SQL = named_queries(__name__)

UNKNOWN = "unknown"  # the system identifier, if this role may not read it


class LedgerIdentity(NamedTuple):
    """The identity of one ledger. `place` is for people: host, port and name of its database."""

    ledger_id: str
    system: str
    database_oid: int
    place: str

    @property
    def key(self) -> str:
        """The identity as Redis stores it: `ledger id/system identifier/database oid`."""
        return f"{self.ledger_id}/{self.system}/{self.database_oid}"


NO_LEDGER = LedgerIdentity("", UNKNOWN, 0, "")


def read_identity(connection: psycopg.Connection, place: str) -> LedgerIdentity:
    """Return the identity of the ledger at `place`. Raises SchemaMissing if the schema has no id yet."""
    row = connection.execute(SQL["ledger_identity"]).fetchone()
    if row is None:
        raise SchemaMissing("viewer.ledger is empty")
    ledger_id, oid, may_read_system = row
    system = _system_identifier(connection) if may_read_system else UNKNOWN
    return LedgerIdentity(ledger_id, system, oid, place)


def _system_identifier(connection: psycopg.Connection) -> str:
    """Read it in a statement of its own: without the right, PostgreSQL refuses every statement with the function."""
    try:
        return str(fetch_one(connection, SQL["system_identifier"])[0])
    except pg.InsufficientPrivilege:
        return UNKNOWN
