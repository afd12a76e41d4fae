-- name: rollup_window
-- Return the first day of a window that can be rolled up (the ledger of earlier days is incomplete), and the last flush.
SELECT greatest(from_day, %(start)s::date), (SELECT coalesce(max(seq), 0) FROM viewer.flush) FROM viewer.ledger_kept

-- name: delete_daily_views
-- Delete the days of a window, which are then rolled up again.
DELETE FROM viewer.daily_views WHERE day >= %(start)s AND day < %(end)s

-- name: insert_daily_views
-- Roll up the ledger by day (UTC) and VOD. Repairs are no views. If a sum exceeds bigint, the check daily_equals_ledger
-- reports it.
INSERT INTO viewer.daily_views (day, vod_id, views)
SELECT (f.taken_at AT TIME ZONE 'UTC')::date, c.vod_id COLLATE "C", least(sum(c.delta), 9223372036854775807)
FROM viewer.flush AS f
JOIN viewer.flush_batch AS b USING (seq)
CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE f.taken_at >= %(start)s::date::timestamp AT TIME ZONE 'UTC'
    AND f.taken_at < %(end)s::date::timestamp AT TIME ZONE 'UTC'
    AND f.seq <= %(through)s AND NOT starts_with(f.mode, 'reconcile')
GROUP BY 1, 2

-- name: record_rollup
-- Record for each day of a window the last flush that is rolled up, also for days without flushes.
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

-- name: set_rollup_limits
-- For this transaction, which may read ten million ledger entries: bounded memory of the server, and time to finish.
SELECT
    set_config('work_mem', '64MB', true), set_config('hash_mem_multiplier', '1', true),
    set_config('statement_timeout', %(milliseconds)s, true), set_config('lock_timeout', '10min', true),
    set_config('jit', 'off', true)

-- name: lock_rollup
-- Exclude other transactions that roll up days or prune the ledger, until this one ends.
SELECT pg_advisory_xact_lock(7310579122)

-- name: rolled_up_days
-- Return the recorded rollups of a window, whether the ledger of each day is kept, and its views according to the ledger.
SELECT r.day, r.vods, r.views, r.last_flush, r.day >= k.from_day, l.flushes, coalesce(l.views, 0), coalesce(l.late_flushes, 0)
FROM viewer.daily_rollup AS r
CROSS JOIN viewer.ledger_kept AS k
CROSS JOIN LATERAL (
    SELECT
        count(*) AS flushes, sum(f.views) FILTER (WHERE f.seq <= r.last_flush) AS views,
        count(*) FILTER (WHERE f.seq > r.last_flush) AS late_flushes
    FROM viewer.flush AS f
    WHERE f.taken_at >= r.day::timestamp AT TIME ZONE 'UTC' AND f.taken_at < (r.day + 1)::timestamp AT TIME ZONE 'UTC'
        AND NOT starts_with(f.mode, 'reconcile')
) AS l
WHERE r.day >= %(start)s AND r.day < %(end)s
ORDER BY r.day

-- name: views_per_day
-- Return the views of each day of a window, summed from daily_views.
SELECT day, sum(views) FROM viewer.daily_views WHERE day >= %(start)s AND day < %(end)s GROUP BY day

-- name: most_viewed_vods_of_day
-- Return the most viewed VODs of a day.
SELECT vod_id, views FROM viewer.daily_views WHERE day = %(day)s ORDER BY views DESC, vod_id LIMIT %(limit)s

-- name: views_per_hour
-- Return the views of a day by the hour (UTC) in which their counters were read.
SELECT extract(hour FROM taken_at AT TIME ZONE 'UTC')::int, sum(views)
FROM viewer.flush
WHERE taken_at >= %(day)s::date::timestamp AT TIME ZONE 'UTC'
    AND taken_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
    AND NOT starts_with(mode, 'reconcile')
GROUP BY 1

-- name: find_windows_to_roll_up
-- Return the days whose ledger is kept and has flushes not rolled up yet. (Flushes commit in the order of seq.)
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

-- name: was_ever_rolled_up
-- Return whether a day was ever rolled up.
SELECT EXISTS (SELECT FROM viewer.daily_rollup WHERE day = %(day)s)
