"""The function viewer.timeline(): which history of PostgreSQL the ledger belongs to (rule R17)."""

from __future__ import annotations

from alembic import op

from viewer_pipeline.stores.named_queries import named_queries

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SQL = named_queries("viewer_pipeline.migrations.versions.m0011_timeline")


def upgrade() -> None:
    """Create it."""
    op.execute(SQL["upgrade"])


def downgrade() -> None:
    """Drop it."""
    op.execute(SQL["downgrade"])
