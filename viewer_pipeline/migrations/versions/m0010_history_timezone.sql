-- name: upgrade
-- The bounds and the time zone of each day (HISTORY_TIMEZONE). Until now all were days in UTC. The columns have no default
-- on purpose: a program that does not know them must not roll up days.
ALTER TABLE viewer.daily_rollup
    ADD COLUMN starts_at timestamptz, ADD COLUMN ends_at timestamptz, ADD COLUMN time_zone text;
UPDATE viewer.daily_rollup SET
    starts_at = day::timestamp AT TIME ZONE 'UTC', ends_at = (day + 1)::timestamp AT TIME ZONE 'UTC', time_zone = 'UTC';
ALTER TABLE viewer.daily_rollup
    ALTER COLUMN starts_at SET NOT NULL, ALTER COLUMN ends_at SET NOT NULL, ALTER COLUMN time_zone SET NOT NULL;

ALTER TABLE viewer.ledger_kept ADD COLUMN from_at timestamptz NOT NULL DEFAULT '-infinity';
UPDATE viewer.ledger_kept SET from_at = from_day::timestamp AT TIME ZONE 'UTC';

-- Today is the day that follows the newest one which has begun: the rollups know their bounds, and this server may not
-- know the zone.
CREATE OR REPLACE VIEW viewer.trending AS
SELECT
    vod_id,
    coalesce(sum(views) FILTER (WHERE day > today - 1), 0)::bigint AS views_1d,
    coalesce(sum(views) FILTER (WHERE day > today - 7), 0)::bigint AS views_7d,
    sum(views)::bigint AS views_30d
FROM viewer.daily_views, (
    SELECT CASE WHEN now() < ends_at THEN day ELSE day + 1 + floor(extract(epoch FROM now() - ends_at) / 86400)::int END
        AS today
    FROM viewer.daily_rollup WHERE starts_at <= now() ORDER BY day DESC LIMIT 1
) AS clock
WHERE day > today - 30 AND day <= today
GROUP BY vod_id;

COMMENT ON TABLE viewer.daily_views IS
    'Views of each VOD on each day (of HISTORY_TIMEZONE) that the counters were read; from the ledger';
COMMENT ON COLUMN viewer.daily_rollup.starts_at IS 'First moment of the day in its time zone';
COMMENT ON COLUMN viewer.daily_rollup.ends_at IS 'First moment of the next day';
COMMENT ON COLUMN viewer.daily_rollup.time_zone IS 'HISTORY_TIMEZONE when it was rolled up';
COMMENT ON COLUMN viewer.ledger_kept.from_at IS 'First moment of from_day';
COMMENT ON VIEW viewer.trending IS 'Views of each VOD on the last 1, 7 and 30 days, today included';

-- name: downgrade
-- Restore revision 0009.
COMMENT ON VIEW viewer.trending IS 'Views of each VOD on the last 1, 7 and 30 days (UTC), today included';
COMMENT ON TABLE viewer.daily_views IS 'Views of each VOD on each day (UTC) that the counters were read; from the ledger';
CREATE OR REPLACE VIEW viewer.trending AS
SELECT
    vod_id,
    coalesce(sum(views) FILTER (WHERE day > today - 1), 0)::bigint AS views_1d,
    coalesce(sum(views) FILTER (WHERE day > today - 7), 0)::bigint AS views_7d,
    sum(views)::bigint AS views_30d
FROM viewer.daily_views, (SELECT (now() AT TIME ZONE 'UTC')::date AS today) AS clock
WHERE day > today - 30 AND day <= today
GROUP BY vod_id;
ALTER TABLE viewer.ledger_kept DROP COLUMN from_at;
ALTER TABLE viewer.daily_rollup DROP COLUMN time_zone, DROP COLUMN ends_at, DROP COLUMN starts_at;
