-- VODs of some flushes whose total (or parked row) does not carry that flush or a later one. None, if all is well.
SELECT b.seq, c.vod_id, t.last_flush
FROM viewer.flush_batch AS b
CROSS JOIN unnest(b.vod_ids) AS c (vod_id)
LEFT JOIN viewer.vod_view_counts AS t ON t.vod_id = c.vod_id
LEFT JOIN viewer.parked AS p ON p.vod_id = c.vod_id
WHERE b.seq = ANY(%(seqs)s)
    AND coalesce(greatest(t.last_flush, p.last_flush), 0) < b.seq
LIMIT 20
