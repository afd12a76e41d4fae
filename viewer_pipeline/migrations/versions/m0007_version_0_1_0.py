"""The schema of version 0.1.0."""

from __future__ import annotations

from alembic import op

from viewer_pipeline.stores.named_queries import named_queries

revision = "0007"
down_revision = None
branch_labels = None
depends_on = None

SQL = named_queries("viewer_pipeline.migrations.versions.m0007_version_0_1_0")


def upgrade() -> None:
    """Create the tables."""
    op.execute(SQL["upgrade"])


def downgrade() -> None:
    """Drop the tables; the counts in them are gone."""
    op.execute(SQL["downgrade"])
