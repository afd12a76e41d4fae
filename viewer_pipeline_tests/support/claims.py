"""Who asks for the lease in a test: a subscriber of the ledger that the test has."""

from __future__ import annotations

from functools import cache
from typing import Any

from viewer_pipeline.flush.identity import LedgerIdentity
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.ingest.fold_store import LeaseRequest


@cache
def identity_of(database_url: str) -> LedgerIdentity:
    """Return which ledger a database has."""
    ledger = Ledger(database_url)
    with ledger.connect() as connection:
        return ledger.identity(connection)


# Of a test that flushes nothing: no database is asked.
SOME_LEDGER = LedgerIdentity("5f1c", "7", 5, "db:5432/views")


def claim(
    ledger: LedgerIdentity, key_space: str, token: str, who: str = "test", term: int = 0, **knows: Any
) -> LeaseRequest:
    """Return what a subscriber of this ledger asks with."""
    return LeaseRequest(key_space, token, who, term, ledger=ledger, **knows)
