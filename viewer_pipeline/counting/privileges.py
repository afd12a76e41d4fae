"""What a role must be allowed in PostgreSQL to do this work, and no more. A test takes each away and sees it fail."""

from __future__ import annotations

# Tables of the schema `viewer`. The ledger is only added to: whoever has this role cannot rewrite what was counted.
TABLES: dict[str, tuple[str, ...]] = {
    "alembic_version": ("SELECT",),
    "flush": ("SELECT", "INSERT"),
    "flush_batch": ("SELECT", "INSERT"),
    "flush_sums": ("SELECT", "INSERT", "UPDATE"),
    "incident": ("SELECT", "INSERT", "UPDATE"),
    "parked": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "parked_look": ("SELECT", "UPDATE"),
    "rejected": ("SELECT", "INSERT"),
    "vod_view_counts": ("SELECT", "INSERT", "UPDATE"),
}
