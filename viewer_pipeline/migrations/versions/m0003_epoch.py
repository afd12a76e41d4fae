"""The epoch of the marker, with every flush."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Flushes before it have the epoch of a marker that was made before it: none."""
    op.execute("ALTER TABLE viewer.flush ADD COLUMN epoch text NOT NULL DEFAULT ''")


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE viewer.flush DROP COLUMN epoch")
