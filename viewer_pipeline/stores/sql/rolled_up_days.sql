-- What is noted of the days of a window, whether its ledger is whole, and what the ledger says that it should be.
SELECT r.day, r.vods, r.views, r.last_flush, r.day >= k.from_day, l.flushes, coalesce(l.views, 0), coalesce(l.behind, 0)
FROM viewer.daily_rollup AS r
CROSS JOIN viewer.ledger_kept AS k
CROSS JOIN LATERAL (
    SELECT
        count(*) AS flushes, sum(f.views) FILTER (WHERE f.seq <= r.last_flush) AS views,
        count(*) FILTER (WHERE f.seq > r.last_flush) AS behind
    FROM viewer.flush AS f
    WHERE f.taken_at >= r.day::timestamp AT TIME ZONE 'UTC' AND f.taken_at < (r.day + 1)::timestamp AT TIME ZONE 'UTC'
        AND NOT starts_with(f.mode, 'reconcile')
) AS l
WHERE r.day >= %(start)s AND r.day < %(end)s
ORDER BY r.day
