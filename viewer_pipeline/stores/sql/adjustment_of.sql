-- What a flush added to each VOD, whatever it was.
SELECT f.mode, f.flush_id, c.vod_id, c.delta
FROM viewer.flush AS f JOIN viewer.flush_batch AS b USING (seq)
CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE f.seq = %(seq)s
ORDER BY b.batch
