-- Count some parked views where there is no table of the user's (any more): into the totals, where there is room.
-- Returns how many VODs and views.
WITH due AS MATERIALIZED (
    SELECT p.vod_id
    FROM viewer.parked AS p LEFT JOIN viewer.vod_view_counts AS t ON t.vod_id = p.vod_id
    WHERE coalesce(t.view_count, 0) <= 9223372036854775807 - p.views
    ORDER BY p.vod_id LIMIT %(some)s
    FOR UPDATE OF p SKIP LOCKED
), gone AS (
    DELETE FROM viewer.parked AS p USING due WHERE p.vod_id = due.vod_id RETURNING p.vod_id, p.views, p.last_flush
), counted AS (
    INSERT INTO viewer.vod_view_counts AS t (vod_id, view_count, last_flush, updated_at)
    SELECT vod_id, views, last_flush, statement_timestamp() FROM gone ORDER BY vod_id
    ON CONFLICT (vod_id) DO UPDATE SET
        view_count = t.view_count + excluded.view_count,
        last_flush = greatest(t.last_flush, excluded.last_flush),
        updated_at = excluded.updated_at
)
SELECT count(*), coalesce(sum(views), 0) FROM gone
