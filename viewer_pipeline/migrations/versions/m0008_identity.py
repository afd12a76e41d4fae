"""Which ledger this is; and a ledger that takes nothing from a program which does not know of it."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# `format` has no default on purpose: version 0.1.0 does not know the column, so what it would commit is refused.
TABLES = """
CREATE TABLE viewer.ledger (
    one boolean PRIMARY KEY DEFAULT TRUE CHECK (one),
    ledger_id uuid NOT NULL DEFAULT gen_random_uuid(),
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO viewer.ledger DEFAULT VALUES;

ALTER TABLE viewer.flush ADD COLUMN format smallint NOT NULL DEFAULT 1;
ALTER TABLE viewer.flush ALTER COLUMN format DROP DEFAULT;

COMMENT ON TABLE viewer.ledger IS 'The id of this ledger, which the marker in Redis names: docs/how-to/clones.md';
COMMENT ON COLUMN viewer.flush.format IS 'Of the protocol that committed it; 1 is that of version 0.1.0';
"""


def upgrade() -> None:
    """Make the id, and the column."""
    op.execute(TABLES)


def downgrade() -> None:
    """Drop them; Redis keeps the names and the format of this version, so version 0.1.0 still refuses to run."""
    op.execute("DROP TABLE viewer.ledger; ALTER TABLE viewer.flush DROP COLUMN format")
