-- name: rollup_window
-- From which day on a window can be rolled up (before it the ledger is not whole), and up to which flush.
SELECT greatest(from_day, %(start)s::date), (SELECT coalesce(max(seq), 0) FROM viewer.flush) FROM viewer.ledger_kept

-- name: delete_daily_views
-- Forget the days of a window, to add them up anew.
DELETE FROM viewer.daily_views WHERE day >= %(start)s AND day < %(end)s

-- name: insert_daily_views
-- Add up the ledger by day (UTC) and VOD. Repairs are no views. What no bigint can hold, the check daily_equals_ledger tells.
INSERT INTO viewer.daily_views (day, vod_id, views)
SELECT (f.taken_at AT TIME ZONE 'UTC')::date, c.vod_id COLLATE "C", least(sum(c.delta), 9223372036854775807)
FROM viewer.flush AS f
JOIN viewer.flush_batch AS b USING (seq)
CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE f.taken_at >= %(start)s::date::timestamp AT TIME ZONE 'UTC'
    AND f.taken_at < %(end)s::date::timestamp AT TIME ZONE 'UTC'
    AND f.seq <= %(through)s AND NOT starts_with(f.mode, 'reconcile')
GROUP BY 1, 2

-- name: note_rollup
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

-- name: bound_rollup
-- For one transaction over a day of perhaps ten million ledger entries: memory of the server bounded, time to finish.
SELECT
    set_config('work_mem', '64MB', true), set_config('hash_mem_multiplier', '1', true),
    set_config('statement_timeout', %(milliseconds)s, true), set_config('lock_timeout', '10min', true),
    set_config('jit', 'off', true)

-- name: lock_daily
-- One at a time rolls up, or says up to which day the ledger is kept; until the transaction ends.
SELECT pg_advisory_xact_lock(7310579122)

-- name: rolled_up_days
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

-- name: sum_daily_views
-- The views of each day of a window, from the rows themselves.
SELECT day, sum(views) FROM viewer.daily_views WHERE day >= %(start)s AND day < %(end)s GROUP BY day

-- name: top_of_day
-- The most viewed VODs of a day.
SELECT vod_id, views FROM viewer.daily_views WHERE day = %(day)s ORDER BY views DESC, vod_id LIMIT %(limit)s

-- name: views_per_hour
-- Views of a day by the hour (UTC) in which their counters were read.
SELECT extract(hour FROM taken_at AT TIME ZONE 'UTC')::int, sum(views)
FROM viewer.flush
WHERE taken_at >= %(day)s::date::timestamp AT TIME ZONE 'UTC'
    AND taken_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
    AND NOT starts_with(mode, 'reconcile')
GROUP BY 1

-- name: stale_days
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

-- name: is_rolled_up
-- Whether a day was ever added up.
SELECT EXISTS (SELECT FROM viewer.daily_rollup WHERE day = %(day)s)
