"""Streams: independent numberings of flushes, each of a part of the VODs."""

from __future__ import annotations

from alembic import op

from viewer_pipeline.stores.named_queries import named_queries

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SQL = named_queries("viewer_pipeline.migrations.versions.m0014_streams")


def upgrade() -> None:
    """Add the table of streams, and positions that have one end for each."""
    op.execute(SQL["upgrade"])


def downgrade() -> None:
    """Take it back. Raises an error if the ledger has had several streams: the version before would not settle them."""
    op.execute(SQL["downgrade"])
