-- Add the batches of one flush to the totals; return the new ones. Sorted, so that two transactions lock rows in the
-- same order. As rows: gathering them into an array here made the statement a fifth slower.
INSERT INTO viewer.vod_view_counts AS t (vod_id, view_count, last_flush, updated_at)
SELECT c.vod_id, c.delta, %(seq)s, statement_timestamp()
FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE b.seq = %(seq)s
ORDER BY c.vod_id COLLATE "C"
ON CONFLICT (vod_id) DO UPDATE SET
    view_count = t.view_count + excluded.view_count,
    last_flush = excluded.last_flush,
    updated_at = excluded.updated_at
RETURNING vod_id, view_count
