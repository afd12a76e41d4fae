-- The same where a total would leave bigint: that VOD's views are parked, everything beside it is counted.
-- Returns ids and totals of what was counted.
WITH due AS (
    SELECT c.vod_id, c.delta
    FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
    WHERE b.seq = %(seq)s
    ORDER BY c.vod_id COLLATE "C"
), counted AS (
    INSERT INTO viewer.vod_view_counts AS t (vod_id, view_count, last_flush, updated_at)
    SELECT vod_id, delta, %(seq)s, statement_timestamp() FROM due
    ON CONFLICT (vod_id) DO UPDATE SET
        view_count = t.view_count + excluded.view_count,
        last_flush = excluded.last_flush,
        updated_at = excluded.updated_at
    WHERE t.view_count <= 9223372036854775807 - excluded.view_count
    RETURNING vod_id, view_count
), parked AS (
    INSERT INTO viewer.parked AS p (vod_id, views, reason, last_flush, updated_at)
    SELECT due.vod_id, due.delta, 'total would be over int64', %(seq)s, statement_timestamp()
    FROM due LEFT JOIN counted USING (vod_id)
    WHERE counted.vod_id IS NULL
    ON CONFLICT (vod_id) DO UPDATE SET
        views = p.views + excluded.views,
        reason = excluded.reason,
        last_flush = excluded.last_flush,
        updated_at = excluded.updated_at
)
SELECT vod_id, view_count FROM counted
