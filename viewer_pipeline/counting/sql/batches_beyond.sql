-- Batches after the marker up to a flush, in the order in which they settle.
SELECT b.seq, b.batch, f.batches, f.taken_at, b.vod_ids, b.deltas, f.epoch
FROM viewer.flush_batch AS b JOIN viewer.flush AS f USING (seq)
WHERE (b.seq, b.batch) > (%(seq)s, %(batch)s) AND b.seq <= %(through)s
ORDER BY b.seq, b.batch
LIMIT %(limit)s
