"""Requests for the lease, from a subscriber of the ledger that a test has."""

from __future__ import annotations

from functools import cache
from typing import Any

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_identity import LedgerIdentity
from viewer_pipeline.ingest.subscriber_scripts import LeaseRequest


@cache
def identity_of(database_url: str) -> LedgerIdentity:
    """Return the identity of the ledger in a database."""
    ledger = Ledger(database_url)
    with ledger.connect() as connection:
        return ledger.identity(connection)


# For tests that flush nothing: no database is queried.
SOME_LEDGER = LedgerIdentity("5f1c", "7", 5, "db:5432/views")


def claim(
    ledger: LedgerIdentity, key_space: str, token: str, worker: str = "test", term: int = 0, **known: Any
) -> LeaseRequest:
    """Return the request of a subscriber of this ledger."""
    return LeaseRequest(key_space, token, worker, term, ledger=ledger, **known)
