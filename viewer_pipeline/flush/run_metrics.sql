-- name: add_run_metrics
-- Add to the totals over runs. Sorted, so that two runs lock rows in the same order.
INSERT INTO viewer.run_metrics AS m (mode, outcome, count, seconds, buckets, drift)
SELECT mode, outcome, count, seconds, buckets, drift
FROM jsonb_to_recordset(%(metrics)s)
    AS new (mode text, outcome text, count bigint, seconds double precision, buckets bigint[], drift numeric)
ORDER BY mode, outcome
ON CONFLICT (mode, outcome) DO UPDATE SET
    count = m.count + excluded.count,
    seconds = m.seconds + excluded.seconds,
    buckets = ARRAY(
        SELECT coalesce(b.old, 0) + coalesce(b.new, 0)
        FROM unnest(m.buckets, excluded.buckets) WITH ORDINALITY AS b (old, new, n)
        ORDER BY b.n
    ),
    drift = m.drift + excluded.drift

-- name: run_metrics
-- The totals over runs.
SELECT mode, outcome, count, seconds, buckets, drift FROM viewer.run_metrics ORDER BY mode, outcome

-- name: flushes_since
-- Totals above a flush, by mode; from 0 including what retention deleted. Without the adjustments of `reconcile`, which are
-- no views and may be negative, and without what is held.
SELECT mode, sum(flushes)::bigint, sum(counters), sum(views), max(last_seq), max(last_committed_at)
FROM (
    SELECT mode, count(*), sum(counters), sum(views), max(seq), max(committed_at)
    FROM viewer.flush WHERE seq > %(seq)s
    GROUP BY mode
    UNION ALL
    SELECT mode, flushes, counters, views, last_seq, last_committed_at FROM viewer.pruned_flushes WHERE %(seq)s = 0
) AS totals (mode, flushes, counters, views, last_seq, last_committed_at)
WHERE viewer.counts_views(mode)
GROUP BY mode ORDER BY mode

-- name: pruned_through
-- The highest flush that retention deleted.
SELECT coalesce(max(last_seq), 0) FROM viewer.pruned_flushes
