-- Days before one that have flushes: how many, up to which one, up to which one the day is added up, and whether its
-- ledger is whole.
SELECT
    (f.taken_at AT TIME ZONE 'UTC')::date, count(*), sum(f.batches), sum(f.views), max(f.seq), max(r.last_flush),
    (f.taken_at AT TIME ZONE 'UTC')::date >= max(k.from_day)
FROM viewer.flush AS f
CROSS JOIN viewer.ledger_kept AS k
LEFT JOIN viewer.daily_rollup AS r ON r.day = (f.taken_at AT TIME ZONE 'UTC')::date
WHERE f.taken_at < %(before)s::date::timestamp AT TIME ZONE 'UTC' AND NOT starts_with(f.mode, 'reconcile')
GROUP BY 1 ORDER BY 1
