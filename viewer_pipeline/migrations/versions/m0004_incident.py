"""Incidents: what a person must look at."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE viewer.incident (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    said text NOT NULL,
    run_id text NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    occasions bigint NOT NULL DEFAULT 1,
    views numeric NOT NULL,
    acknowledged_at timestamptz
);

CREATE UNIQUE INDEX incident_open ON viewer.incident (kind) WHERE acknowledged_at IS NULL;

COMMENT ON TABLE viewer.incident IS
    'What a run found and a person must look at; open until `viewer-pipeline acknowledge`';
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(TABLE)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE viewer.incident")
