-- Note for each day of a window up to which flush it is added up, days without any flush included.
INSERT INTO viewer.daily_rollup AS r (day, last_flush, vods, views)
SELECT day::date, coalesce(l.last_flush, 0), coalesce(d.vods, 0), coalesce(d.views, 0)
FROM generate_series(%(start)s::date, %(end)s::date - 1, interval '1 day') AS day
LEFT JOIN (
    SELECT (taken_at AT TIME ZONE 'UTC')::date AS day, max(seq) AS last_flush
    FROM viewer.flush
    WHERE taken_at >= %(start)s::date::timestamp AT TIME ZONE 'UTC'
        AND taken_at < %(end)s::date::timestamp AT TIME ZONE 'UTC'
        AND seq <= %(through)s AND NOT starts_with(mode, 'reconcile')
    GROUP BY 1
) AS l USING (day)
LEFT JOIN (
    SELECT day, count(*) AS vods, sum(views) AS views FROM viewer.daily_views
    WHERE day >= %(start)s AND day < %(end)s GROUP BY 1
) AS d USING (day)
ON CONFLICT (day) DO UPDATE
SET rolled_at = clock_timestamp(), last_flush = excluded.last_flush, vods = excluded.vods, views = excluded.views
