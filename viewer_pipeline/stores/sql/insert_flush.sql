-- Claim the next seq. No row comes back when another run committed since `base` was fixed (rules R3, R6), nor when the
-- flush that was the newest then is not the newest any more: PostgreSQL was rolled back in between; or it never was,
-- because a standby that lags was asked: then nothing was lost, and nothing may be noted as missing.
INSERT INTO viewer.flush (seq, flush_id, run_id, mode, taken_at, counters, views, batches, epoch, format)
SELECT %(seq)s, %(flush_id)s, %(run_id)s, %(mode)s, %(taken_at)s, %(counters)s, %(views)s, %(batches)s, %(epoch)s,
    %(format)s
WHERE NOT EXISTS (SELECT FROM viewer.flush WHERE seq > %(base)s)
    AND (%(after)s::uuid IS NULL OR %(after)s = (SELECT flush_id FROM viewer.flush ORDER BY seq DESC LIMIT 1))
ON CONFLICT DO NOTHING
RETURNING seq
