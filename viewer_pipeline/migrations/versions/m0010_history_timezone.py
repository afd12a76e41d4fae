"""The bounds and the time zone of each day that is rolled up, and the moment from which the ledger is complete.

Programs of revision 0009 cannot roll up days after this migration; their flushes are not affected.
"""

from __future__ import annotations

from alembic import op

from viewer_pipeline.stores.named_queries import named_queries

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SQL = named_queries("viewer_pipeline.migrations.versions.m0010_history_timezone")


def upgrade() -> None:
    """Add the columns; all days were days in UTC."""
    op.execute(SQL["upgrade"])


def downgrade() -> None:
    """Drop the columns. Days of another zone are taken for days in UTC then: run a backfill."""
    op.execute(SQL["downgrade"])
