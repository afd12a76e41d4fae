"""The PostgreSQL settings of our sessions, whatever the role, the database, the server or a PG* variable sets.

docs/adr/0016-session-settings.md says of every other setting why it is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

STATEMENT_SECONDS = 60.0

# Every wait has a time-out: a run that hangs delays all later ones. The URL overrides these.
TIMEOUTS: Mapping[str, str] = MappingProxyType(
    {
        "statement_timeout": f"{STATEMENT_SECONDS:.0f}s",
        "lock_timeout": "20s",
        "idle_in_transaction_session_timeout": "60s",
        "idle_session_timeout": "0",
        "transaction_timeout": "0",  # reconciliation reads everything in one transaction
    }
)

# What the statements and the client mean, and how values are written. Nothing overrides these. Statements that run
# triggers of the user reset four of them (target/add_or_park.sql).
PINNED: Mapping[str, str] = MappingProxyType(
    {
        "array_nulls": "on",
        "bytea_output": "hex",
        "client_encoding": "UTF8",
        "datestyle": "ISO",
        "default_transaction_deferrable": "off",
        "default_transaction_isolation": "read committed",
        "exit_on_error": "off",
        "extra_float_digits": "1",
        "intervalstyle": "postgres",
        "quote_all_identifiers": "off",
        "row_security": "off",  # an error, where a policy would hide rows of the ledger
        "standard_conforming_strings": "on",
        "timezone": "UTC",
        "transform_null_equals": "off",
    }
)
NOT_IN_ALL_VERSIONS = ("transaction_timeout",)  # since PostgreSQL 17
