"""What applications read of the daily views, and the sums of flushes that retention deleted."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# The index serves one VOD (`WHERE vod_id = …`); all of them are read by the primary key, by day.
# What is deleted from the ledger stays in the sums that /metrics shows, in the same statement.
TABLES = """
CREATE INDEX daily_views_of_vod ON viewer.daily_views (vod_id, day) INCLUDE (views);

CREATE VIEW viewer.trending AS
SELECT
    vod_id,
    coalesce(sum(views) FILTER (WHERE day > today - 1), 0)::bigint AS views_1d,
    coalesce(sum(views) FILTER (WHERE day > today - 7), 0)::bigint AS views_7d,
    sum(views)::bigint AS views_30d
FROM viewer.daily_views, (SELECT (now() AT TIME ZONE 'UTC')::date AS today) AS clock
WHERE day > today - 30 AND day <= today
GROUP BY vod_id;

CREATE TABLE viewer.pruned_flushes (
    mode text PRIMARY KEY,
    flushes bigint NOT NULL,
    counters numeric NOT NULL,
    views numeric NOT NULL,
    last_seq bigint NOT NULL,
    last_committed_at timestamptz NOT NULL
);

COMMENT ON VIEW viewer.trending IS 'Views of each VOD on the last 1, 7 and 30 days (UTC), today included';
COMMENT ON TABLE viewer.pruned_flushes IS 'Sums over the flushes that retention deleted from the ledger, by mode';
"""


def upgrade() -> None:
    """Make them."""
    op.execute(TABLES)


def downgrade() -> None:
    """Drop them; sums over deleted flushes are gone."""
    op.execute("DROP TABLE viewer.pruned_flushes; DROP VIEW viewer.trending; DROP INDEX viewer.daily_views_of_vod")
