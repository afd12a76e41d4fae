"""What parked views need that wait for a row of the user's table."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# The index finds the newest ones, whose rows are likely to come. Nothing else looks at parked rows unless it is told
# their ids, so a million of ids that somebody made up cost other flushes nothing.
TABLES = """
ALTER TABLE viewer.parked ADD COLUMN refused_at timestamptz;
CREATE INDEX parked_first_seen ON viewer.parked (first_seen);

CREATE TABLE viewer.parked_look (
    one boolean PRIMARY KEY DEFAULT TRUE CHECK (one),
    after text COLLATE "C" NOT NULL
);
INSERT INTO viewer.parked_look (after) VALUES ('');

COMMENT ON COLUMN viewer.parked.refused_at IS 'When the user''s table refused them last; they are tried an hour later';
COMMENT ON TABLE viewer.parked_look IS 'Up to which id the last sweep looked whether parked views can be counted';
"""


def upgrade() -> None:
    """Add them."""
    op.execute(TABLES)


def downgrade() -> None:
    """Drop them."""
    op.execute(
        "DROP TABLE viewer.parked_look; DROP INDEX viewer.parked_first_seen;"
        " ALTER TABLE viewer.parked DROP COLUMN refused_at"
    )
