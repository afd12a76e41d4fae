-- Add to the sums over flushes. Sorted, so that two runs lock rows in the same order.
INSERT INTO viewer.flush_sums AS s (mode, outcome, count, seconds, buckets, drift)
SELECT mode, outcome, count, seconds, buckets, drift
FROM jsonb_to_recordset(%(sums)s)
    AS new (mode text, outcome text, count bigint, seconds double precision, buckets bigint[], drift numeric)
ORDER BY mode, outcome
ON CONFLICT (mode, outcome) DO UPDATE SET
    count = s.count + excluded.count,
    seconds = s.seconds + excluded.seconds,
    buckets = ARRAY(
        SELECT coalesce(b.old, 0) + coalesce(b.new, 0)
        FROM unnest(s.buckets, excluded.buckets) WITH ORDINALITY AS b (old, new, n)
        ORDER BY b.n
    ),
    drift = s.drift + excluded.drift
