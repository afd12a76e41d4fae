-- Batches after the marker up to a flush, in the order in which they settle. Those of `reconcile` were never in Redis:
-- the marker passes over them, and nothing is subtracted.
SELECT
    b.seq, b.batch, f.batches, f.taken_at,
    CASE WHEN starts_with(f.mode, 'reconcile') THEN '{}' ELSE b.vod_ids END,
    CASE WHEN starts_with(f.mode, 'reconcile') THEN '{}' ELSE b.deltas END,
    f.epoch, f.flush_id::text
FROM viewer.flush_batch AS b JOIN viewer.flush AS f USING (seq)
WHERE (b.seq, b.batch) > (%(seq)s, %(batch)s) AND b.seq <= %(through)s
ORDER BY b.seq, b.batch
LIMIT %(limit)s
