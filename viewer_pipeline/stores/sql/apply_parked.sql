-- Count parked views whose rows are locked by this transaction: into the user's table and the totals, out of parked.
-- What is left although its row was held is not tried again for an hour. Returns the ids and views of what was counted.
WITH due AS MATERIALIZED (
    SELECT c.vod_id, c.views AS delta, c.last_flush, {key} AS key
    FROM viewer.parked AS c
    WHERE c.vod_id = ANY(%(vod_ids)s)
    ORDER BY c.vod_id COLLATE "C"
), sums AS MATERIALIZED (
    SELECT key, sum(delta) AS delta FROM due WHERE key IS NOT NULL GROUP BY key ORDER BY key
), touched AS (
    UPDATE {table} AS t
    SET {count} = coalesce(t.{count}, 0) + s.delta
    FROM sums AS s
    WHERE t.{id} = s.key AND coalesce(t.{count}, 0) <= {most} - s.delta
    RETURNING s.key
), counted AS (
    INSERT INTO viewer.vod_view_counts AS t (vod_id, view_count, last_flush, updated_at)
    SELECT due.vod_id, due.delta, due.last_flush, statement_timestamp()
    FROM due JOIN touched USING (key)
    ORDER BY due.vod_id COLLATE "C"
    ON CONFLICT (vod_id) DO UPDATE SET
        view_count = t.view_count + excluded.view_count,
        last_flush = greatest(t.last_flush, excluded.last_flush),
        updated_at = excluded.updated_at
), gone AS (
    DELETE FROM viewer.parked AS p USING due JOIN touched USING (key) WHERE p.vod_id = due.vod_id
), left_over AS (
    UPDATE viewer.parked AS p
    SET
        refused_at = statement_timestamp(),
        reason = CASE
            WHEN EXISTS (
                SELECT FROM {table} AS t WHERE t.{id} = due.key AND coalesce(t.{count}, 0) > {most} - sums.delta
            ) THEN {no_room}
            ELSE {not_written}
        END
    FROM due JOIN sums USING (key) LEFT JOIN touched USING (key)
    WHERE p.vod_id = due.vod_id AND touched.key IS NULL
)
SELECT due.vod_id, due.delta FROM due JOIN touched USING (key)
