-- Days from one on whose ledger is kept and has flushes that are not added up yet. (Flushes commit in the order of seq.)
SELECT f.day
FROM (
    SELECT (taken_at AT TIME ZONE 'UTC')::date AS day, max(seq) AS last_flush
    FROM viewer.flush
    WHERE taken_at >= %(start)s::date::timestamp AT TIME ZONE 'UTC'
        AND taken_at < (%(last)s::date + 1)::timestamp AT TIME ZONE 'UTC'
        AND NOT starts_with(mode, 'reconcile')
    GROUP BY 1
) AS f
CROSS JOIN viewer.ledger_kept AS k
LEFT JOIN viewer.daily_rollup AS r USING (day)
WHERE f.day >= k.from_day AND f.last_flush > coalesce(r.last_flush, 0)
ORDER BY f.day
