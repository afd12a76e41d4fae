"""Sums over flushes for metrics, and an index that bounds the rejects."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# `drift` is numeric as `views` are: it adds up counts.
TABLES = """
CREATE TABLE viewer.flush_sums (
    mode text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('committed', 'superseded', 'failed')),
    count bigint NOT NULL,
    seconds double precision NOT NULL,
    buckets bigint[] NOT NULL,
    drift numeric NOT NULL,
    PRIMARY KEY (mode, outcome)
);

CREATE INDEX rejected_by_reason ON viewer.rejected (source, reason);

COMMENT ON TABLE viewer.flush_sums IS
    'Sums over flushes, added to at the end of each run, for metrics: committed and superseded flushes, failed runs. '
    'A run that failed or was killed is not in it with what it committed: the ledger is';
COMMENT ON COLUMN viewer.flush_sums.seconds IS 'Of committed flushes: transactions and settling';
COMMENT ON COLUMN viewer.flush_sums.buckets IS
    'Of committed flushes: how many took how long; not cumulative, bounds in counting/sums.py, the last without one';
COMMENT ON COLUMN viewer.flush_sums.drift IS 'Views that counters should have held and did not';
"""


def upgrade() -> None:
    """Make the table and the index."""
    op.execute(TABLES)


def downgrade() -> None:
    """Drop them; the sums are gone, the ledger is not."""
    op.execute("DROP INDEX viewer.rejected_by_reason; DROP TABLE viewer.flush_sums")
