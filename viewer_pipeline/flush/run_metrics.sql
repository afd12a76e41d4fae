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
-- Totals of the flushes of a position that are not in an earlier one, by mode; of all, including what retention deleted, if
-- that one is empty. Without the adjustments of `reconcile`, which are no views and may be negative, and without what is held.
SELECT mode, sum(flushes)::bigint, sum(counters), sum(views), max(last_committed_at)
FROM (
    SELECT f.mode, count(*), sum(f.counters), sum(f.views), max(f.committed_at)
    FROM unnest(%(through)s::int8multirange - %(since)s::int8multirange) AS new (seqs)
    JOIN viewer.flush AS f ON f.seq >= lower(new.seqs) AND f.seq < upper(new.seqs)
    GROUP BY f.mode
    UNION ALL
    SELECT mode, flushes, counters, views, last_committed_at FROM viewer.pruned_flushes
    WHERE isempty(%(since)s::int8multirange)
) AS totals (mode, flushes, counters, views, last_committed_at)
WHERE viewer.counts_views(mode)
GROUP BY mode ORDER BY mode

-- name: position
-- The flushes that are committed now; and whether what was read at an earlier position still holds: no stream ends before it,
-- and retention has deleted nothing that came after it.
SELECT
    p.now::text,
    p.now @> %(since)s::int8multirange
        AND NOT EXISTS (
            SELECT FROM viewer.pruned_flushes WHERE NOT %(since)s::int8multirange @> last_seq
        )
FROM viewer.ledger_position() AS p (now)
