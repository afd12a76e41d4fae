"""Held views: what was found in a Redis that had lost its marker, and may have been counted before (rule R16)."""

from __future__ import annotations

from alembic import op

from viewer_pipeline.stores.named_queries import named_queries

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SQL = named_queries("viewer_pipeline.migrations.versions.m0012_held_views")


def upgrade() -> None:
    """Create the tables and the function."""
    op.execute(SQL["upgrade"])


def downgrade() -> None:
    """Drop them. Views that are still held would be lost: raises an error if there are any."""
    op.execute(SQL["downgrade"])
