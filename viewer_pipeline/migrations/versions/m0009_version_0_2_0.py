"""The identity of the ledger, columns for a Redis Cluster, and names from docs/glossary.md.

`stream` and `shard` are 0 on a single Redis. A stream is a numbering of flushes, a shard the counters that one script
may touch. The primary keys stay as they are: with more than one stream or shard they need these columns, too, but such
an index can be built beside the old one (CREATE INDEX CONCURRENTLY) when the first ledger needs it, and no row changes
for it. PostgreSQL stores the default of a new column once, so no row is rewritten; the checks read each table once.

Nothing of the version before may run during this migration: what it would write to a renamed table is refused.
"""

from __future__ import annotations

from alembic import op

from viewer_pipeline.stores.named_queries import named_queries

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None

SQL = named_queries("viewer_pipeline.migrations.versions.m0009_version_0_2_0")


def upgrade() -> None:
    """Create the table of the ledger's id, add the columns, rename."""
    op.execute(SQL["upgrade"])


def downgrade() -> None:
    """Restore the schema of 0.1.0, whose programs still refuse to run on this Redis."""
    op.execute(SQL["downgrade"])
