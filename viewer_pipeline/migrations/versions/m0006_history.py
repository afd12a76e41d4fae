"""Daily views, how far the ledger is kept, and the baseline."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A VOD's views of one day fit bigint, as its total does.
TABLES = """
CREATE TABLE viewer.daily_views (
    day date NOT NULL,
    vod_id text COLLATE "C" NOT NULL,
    views bigint NOT NULL,
    PRIMARY KEY (day, vod_id)
);

CREATE TABLE viewer.daily_rollup (
    day date PRIMARY KEY,
    rolled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_flush bigint NOT NULL,
    vods bigint NOT NULL,
    views numeric NOT NULL
);

CREATE TABLE viewer.ledger_kept (
    one boolean PRIMARY KEY DEFAULT TRUE CHECK (one),
    from_day date NOT NULL
);
INSERT INTO viewer.ledger_kept (from_day) VALUES ('-infinity');

CREATE TABLE viewer.baseline_taken (
    one boolean PRIMARY KEY DEFAULT TRUE CHECK (one),
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    source text NOT NULL,
    vods bigint NOT NULL,
    views numeric NOT NULL
);

CREATE INDEX flush_taken_at ON viewer.flush (taken_at);

COMMENT ON TABLE viewer.daily_views IS 'Views of each VOD on each day (UTC) that the counters were read; from the ledger';
COMMENT ON TABLE viewer.daily_rollup IS 'What of the ledger is in viewer.daily_views: up to which flush each day is added up';
COMMENT ON TABLE viewer.ledger_kept IS 'First day whose ledger is kept whole; the days before it are in daily_views alone';
COMMENT ON TABLE viewer.baseline_taken IS 'When, and from where, the counts that existed before were taken as the baseline';
"""  # noqa: E501 - a sentence to a line


def upgrade() -> None:
    """Make them."""
    op.execute(TABLES)


def downgrade() -> None:
    """Drop them; days whose ledger was dropped are gone."""
    op.execute(
        "DROP INDEX viewer.flush_taken_at;"
        " DROP TABLE viewer.daily_views, viewer.daily_rollup, viewer.ledger_kept, viewer.baseline_taken"
    )
