-- What some flushes have parked: VODs whose total does not carry the flush. As far as it is parked still.
SELECT count(DISTINCT c.vod_id), coalesce(sum(c.delta), 0)
FROM viewer.flush_batch AS b
CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
LEFT JOIN viewer.vod_view_counts AS t ON t.vod_id = c.vod_id
WHERE b.seq = ANY(%(seqs)s) AND coalesce(t.last_flush, 0) < b.seq
