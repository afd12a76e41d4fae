-- name: adjustment_of
-- Return the mode and id of a flush, and what it added to each VOD.
SELECT f.mode, f.flush_id, c.vod_id, c.delta
FROM viewer.flush AS f JOIN viewer.flush_batch AS b USING (seq)
CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE f.seq = %(seq)s
ORDER BY b.batch

-- name: target_counts
-- Return the counts of some rows of the user's table.
SELECT c.vod_id, coalesce(t.{count}, 0)
FROM unnest(%(vod_ids)s::text[]) AS c (vod_id) JOIN {table} AS t ON t.{id} = {key}
