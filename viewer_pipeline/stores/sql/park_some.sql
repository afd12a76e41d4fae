-- Park the views of some counters of a flush, because the user's table refused them.
INSERT INTO viewer.parked AS p (vod_id, views, reason, last_flush, updated_at, refused_at)
SELECT c.vod_id, c.delta, %(reason)s, %(seq)s, statement_timestamp(), statement_timestamp()
FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE b.seq = %(seq)s
ORDER BY c.vod_id COLLATE "C"
OFFSET %(skip)s LIMIT %(take)s
ON CONFLICT (vod_id) DO UPDATE SET
    views = p.views + excluded.views,
    reason = excluded.reason,
    last_flush = excluded.last_flush,
    updated_at = excluded.updated_at,
    refused_at = excluded.refused_at
