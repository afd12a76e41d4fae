-- Give up the parked views of some VODs that have no row, and had no views for so many days; one record of it among the
-- rejected. Views whose row is there may be counted yet: when a look notices it, or when there is room.
-- Returns how many VODs and views.
WITH old AS MATERIALIZED (
    SELECT c.vod_id FROM viewer.parked AS c
    WHERE c.first_seen < now() - make_interval(days => %(days)s)
        AND c.updated_at < now() - make_interval(days => %(days)s)
        AND NOT EXISTS (SELECT FROM {table} AS t WHERE t.{id} = {key})
    ORDER BY c.first_seen LIMIT %(some)s
    FOR UPDATE OF c SKIP LOCKED
), gone AS (
    DELETE FROM viewer.parked AS p USING old WHERE p.vod_id = old.vod_id RETURNING p.views
), given_up AS (
    SELECT count(*) AS vods, coalesce(sum(views), 0) AS views FROM gone
), recorded AS (
    INSERT INTO viewer.rejected (digest, source, subject, value, reason)
    SELECT
        sha256(convert_to(gen_random_uuid()::text, 'UTF8')), 'parked', vods || ' VODs', views::text,
        'no row came for them within PARKED_RETENTION_DAYS=' || %(days)s
    FROM given_up WHERE vods > 0
)
SELECT vods, views FROM given_up
