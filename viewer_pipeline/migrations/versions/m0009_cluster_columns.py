"""Names from the vocabulary of docs/glossary.md, and the columns that a Redis Cluster needs in the ledger.

`stream` and `shard` are 0 on a single Redis. A stream is a numbering of flushes, a shard the counters that one script
may touch. The primary keys stay as they are: with more than one stream or shard they need these columns, too, but such
an index can be built beside the old one (CREATE INDEX CONCURRENTLY) when the first ledger needs it, and no row changes
for it. PostgreSQL stores the default of a new column once, so no row is rewritten; the checks read each table once.

Nothing of the version before may run during this migration: what it would write to a renamed table is refused.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

UPGRADE = """
ALTER TABLE viewer.flush ADD COLUMN stream smallint NOT NULL DEFAULT 0 CHECK (stream >= 0);
ALTER TABLE viewer.flush_batch
    ADD COLUMN stream smallint NOT NULL DEFAULT 0 CHECK (stream >= 0),
    ADD COLUMN shard smallint NOT NULL DEFAULT 0 CHECK (shard >= 0);

ALTER TABLE viewer.incident RENAME COLUMN said TO message;
ALTER TABLE viewer.flush_sums RENAME TO run_metrics;
ALTER TABLE viewer.parked_look RENAME TO parked_cursor;
ALTER TABLE viewer.parked_cursor RENAME COLUMN one TO singleton;
ALTER TABLE viewer.ledger RENAME COLUMN one TO singleton;
ALTER TABLE viewer.ledger_kept RENAME COLUMN one TO singleton;
ALTER TABLE viewer.baseline_taken RENAME COLUMN one TO singleton;

COMMENT ON COLUMN viewer.flush.stream IS 'Numbering that `seq` belongs to; 0 on a single Redis';
COMMENT ON COLUMN viewer.flush_batch.stream IS 'Stream of the flush';
COMMENT ON COLUMN viewer.flush_batch.shard IS 'Shard of Redis that the counters belong to; 0 on a single Redis';
COMMENT ON TABLE viewer.incident IS
    'What a run detected and an operator must examine; open until `viewer-pipeline acknowledge`';
COMMENT ON TABLE viewer.run_metrics IS
    'Totals over runs for metrics, added to at the end of each run: committed and superseded flushes, failed runs. '
    'What a run that failed or was killed had committed is in the ledger alone';
COMMENT ON COLUMN viewer.run_metrics.buckets IS
    'Of committed flushes: how many took how long; not cumulative, bounds in flush/run_metrics.py, none for the last';
COMMENT ON TABLE viewer.parked_cursor IS 'Id after which the next scan of parked views starts';
"""

DOWNGRADE = """
ALTER TABLE viewer.baseline_taken RENAME COLUMN singleton TO one;
ALTER TABLE viewer.ledger_kept RENAME COLUMN singleton TO one;
ALTER TABLE viewer.ledger RENAME COLUMN singleton TO one;
ALTER TABLE viewer.parked_cursor RENAME COLUMN singleton TO one;
ALTER TABLE viewer.parked_cursor RENAME TO parked_look;
ALTER TABLE viewer.run_metrics RENAME TO flush_sums;
ALTER TABLE viewer.incident RENAME COLUMN message TO said;
ALTER TABLE viewer.flush_batch DROP COLUMN shard, DROP COLUMN stream;
ALTER TABLE viewer.flush DROP COLUMN stream;
"""


def upgrade() -> None:
    """Rename tables and columns, and add the columns."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Restore the old names, and drop the columns."""
    op.execute(DOWNGRADE)
