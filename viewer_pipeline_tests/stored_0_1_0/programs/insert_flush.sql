-- Claim the next seq. No row comes back when another run committed since `base` was fixed (rules R3, R6), nor when the
-- flush that was the newest then is gone: PostgreSQL was rolled back in between.
INSERT INTO viewer.flush (seq, flush_id, run_id, mode, taken_at, counters, views, batches, epoch)
SELECT %(seq)s, %(flush_id)s, %(run_id)s, %(mode)s, %(taken_at)s, %(counters)s, %(views)s, %(batches)s, %(epoch)s
WHERE NOT EXISTS (SELECT FROM viewer.flush WHERE seq > %(base)s)
    AND (%(after)s::uuid IS NULL OR EXISTS (SELECT FROM viewer.flush WHERE flush_id = %(after)s))
ON CONFLICT DO NOTHING
RETURNING seq
