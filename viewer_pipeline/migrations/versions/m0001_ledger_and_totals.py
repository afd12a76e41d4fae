"""Ledger, totals, parked and rejected."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Ids are compared by bytes (collation "C"): the order in which Python sorts them, and the cheapest for an index.
# `views` are numeric where they add up counts: sixty thousand counters near the bigint limit must not fail a flush.
TABLES = """
CREATE TABLE viewer.flush (
    seq bigint PRIMARY KEY,
    flush_id uuid NOT NULL UNIQUE,
    run_id text NOT NULL,
    mode text NOT NULL,
    taken_at timestamptz NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    counters bigint NOT NULL,
    views numeric NOT NULL,
    batches integer NOT NULL
);

CREATE TABLE viewer.flush_batch (
    seq bigint NOT NULL,
    batch integer NOT NULL,
    vod_ids text[] NOT NULL,
    deltas bigint[] NOT NULL,
    PRIMARY KEY (seq, batch)
) WITH (toast_tuple_target = 8160);

CREATE TABLE viewer.vod_view_counts (
    vod_id text COLLATE "C" PRIMARY KEY,
    view_count bigint NOT NULL,
    baseline bigint NOT NULL DEFAULT 0,
    last_flush bigint NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE viewer.parked (
    vod_id text COLLATE "C" PRIMARY KEY,
    views numeric NOT NULL,
    reason text NOT NULL,
    last_flush bigint NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL
);

CREATE TABLE viewer.rejected (
    digest bytea PRIMARY KEY,
    source text NOT NULL,
    subject text NOT NULL,
    value text NOT NULL,
    reason text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE viewer.flush IS 'Ledger: one row per committed flush';
COMMENT ON TABLE viewer.flush_batch IS 'Ledger: what each batch of a flush added, and so subtracts from Redis once';
COMMENT ON TABLE viewer.vod_view_counts IS 'Totals: the persisted view count of each VOD';
COMMENT ON TABLE viewer.parked IS 'Views that could not be added to a total yet';
COMMENT ON TABLE viewer.rejected IS 'Input that can never be a count, recorded once';
"""


def upgrade() -> None:
    """Make the tables."""
    op.execute(TABLES)


def downgrade() -> None:
    """Drop the tables; the counts in them are gone."""
    op.execute("DROP TABLE viewer.rejected, viewer.parked, viewer.vod_view_counts, viewer.flush_batch, viewer.flush")
