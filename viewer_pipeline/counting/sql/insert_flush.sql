-- Claim the next seq. No row comes back when another run committed since `base` was fixed (rules R3, R6).
INSERT INTO viewer.flush (seq, flush_id, run_id, mode, taken_at, counters, views, batches)
SELECT %(seq)s, %(flush_id)s, %(run_id)s, %(mode)s, %(taken_at)s, %(counters)s, %(views)s, %(batches)s
WHERE NOT EXISTS (SELECT FROM viewer.flush WHERE seq > %(base)s)
ON CONFLICT DO NOTHING
RETURNING seq
