-- The VODs with the most views in some flushes, with their totals.
SELECT c.vod_id, sum(c.delta) AS views, max(t.view_count) AS total
FROM viewer.flush_batch AS b
CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
LEFT JOIN viewer.vod_view_counts AS t ON t.vod_id = c.vod_id
WHERE b.seq = ANY(%(seqs)s)
GROUP BY c.vod_id
ORDER BY views DESC, c.vod_id
LIMIT %(limit)s
