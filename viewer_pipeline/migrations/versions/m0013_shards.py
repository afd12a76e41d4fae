"""Shards of a Redis Cluster: the ledger finds the batches of one shard, and knows the epoch of each (rules R3, R14)."""

from __future__ import annotations

from alembic import op

from viewer_pipeline.stores.named_queries import named_queries

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

SQL = named_queries("viewer_pipeline.migrations.versions.m0013_shards")


def upgrade() -> None:
    """Add the column and the index."""
    op.execute(SQL["upgrade"])


def downgrade() -> None:
    """Drop them. Raises an error if the ledger has batches of a cluster: the version before would not settle them."""
    op.execute(SQL["downgrade"])
