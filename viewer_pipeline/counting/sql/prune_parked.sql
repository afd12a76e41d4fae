-- Give up the parked views of some VODs that had none for so many days; one record of it among the rejected.
-- Returns how many VODs and views.
WITH old AS MATERIALIZED (
    SELECT vod_id FROM viewer.parked
    WHERE first_seen < now() - make_interval(days => %(days)s)
        AND updated_at < now() - make_interval(days => %(days)s)
    ORDER BY first_seen LIMIT %(some)s
    FOR UPDATE SKIP LOCKED
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
