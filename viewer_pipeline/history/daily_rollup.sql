-- name: ledger_position
-- Return the flushes that are committed now: those of a later transaction are left to the next rollup.
SELECT viewer.ledger_position()::text

-- name: delete_daily_views
-- Delete the days of a window, which are then rolled up again.
DELETE FROM viewer.daily_views WHERE day >= %(start)s AND day < %(end)s

-- name: insert_daily_views
-- Roll up the ledger by day and VOD; width_bucket finds the day of a moment. Repairs are no views. If a sum exceeds bigint, the check daily_equals_ledger
-- reports it.
INSERT INTO viewer.daily_views (day, vod_id, views)
SELECT (%(days)s::date[])[width_bucket(f.taken_at, %(starts)s::timestamptz[])], c.vod_id COLLATE "C", least(sum(c.delta), 9223372036854775807)
FROM viewer.flush AS f
JOIN viewer.flush_batch AS b USING (seq)
CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE f.taken_at >= %(starts_at)s AND f.taken_at < %(ends_at)s
    AND %(through)s::int8multirange @> f.seq AND viewer.counts_views(f.mode)
GROUP BY 1, 2

-- name: record_rollup
-- Record for each day of a window its bounds and the last flush of each stream that is rolled up, also for days without
-- flushes.
INSERT INTO viewer.daily_rollup AS r (day, starts_at, ends_at, time_zone, through, vods, views)
SELECT
    bounds.day, bounds.starts_at, bounds.ends_at, %(time_zone)s,
    coalesce(l.through, '{}'), coalesce(d.vods, 0), coalesce(d.views, 0)
FROM unnest(%(days)s::date[], %(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS bounds (day, starts_at, ends_at)
LEFT JOIN (
    SELECT day, range_agg(int8range(viewer.stream_start(last_flush), last_flush, '[]')) AS through
    FROM (
        SELECT (%(days)s::date[])[width_bucket(taken_at, %(starts)s::timestamptz[])] AS day, max(seq) AS last_flush
        FROM viewer.flush
        WHERE taken_at >= %(starts_at)s AND taken_at < %(ends_at)s
            AND %(through)s::int8multirange @> seq AND viewer.counts_views(mode)
        GROUP BY 1, viewer.stream_of(seq)
    ) AS last_of_streams
    GROUP BY 1
) AS l USING (day)
LEFT JOIN (
    SELECT day, count(*) AS vods, sum(views) AS views FROM viewer.daily_views
    WHERE day >= %(start)s AND day < %(end)s GROUP BY 1
) AS d USING (day)
ON CONFLICT (day) DO UPDATE SET
    starts_at = excluded.starts_at, ends_at = excluded.ends_at, time_zone = excluded.time_zone,
    rolled_at = clock_timestamp(), through = excluded.through, vods = excluded.vods, views = excluded.views

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
SELECT
    r.day, r.vods, r.views, r.day >= k.from_day,
    l.flushes, coalesce(l.views, 0), coalesce(l.late_flushes, 0), r.starts_at, r.ends_at
FROM viewer.daily_rollup AS r
CROSS JOIN viewer.ledger_kept AS k
CROSS JOIN LATERAL (
    SELECT
        count(*) AS flushes, sum(f.views) FILTER (WHERE r.through @> f.seq) AS views,
        count(*) FILTER (WHERE NOT r.through @> f.seq) AS late_flushes
    FROM viewer.flush AS f
    WHERE f.taken_at >= r.starts_at AND f.taken_at < r.ends_at AND viewer.counts_views(f.mode)
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
-- Return the views of a day by the number of the hour, from 1, in which their counters were read.
SELECT width_bucket(taken_at, %(hours)s::timestamptz[]), sum(views)
FROM viewer.flush
WHERE taken_at >= %(starts_at)s AND taken_at < %(ends_at)s AND viewer.counts_views(mode)
GROUP BY 1

-- name: find_windows_to_roll_up
-- Return the days that have flushes not rolled up yet. (Within a stream, flushes commit in the order of seq.)
SELECT DISTINCT f.day
FROM (
    SELECT (%(days)s::date[])[width_bucket(taken_at, %(starts)s::timestamptz[])] AS day, max(seq) AS last_flush
    FROM viewer.flush
    WHERE taken_at >= %(starts_at)s AND taken_at < %(ends_at)s AND viewer.counts_views(mode)
    GROUP BY 1, viewer.stream_of(seq)
) AS f
LEFT JOIN viewer.daily_rollup AS r USING (day)
WHERE (r.through @> f.last_flush) IS NOT TRUE
ORDER BY f.day

-- name: was_ever_rolled_up
-- Return whether a day was ever rolled up.
SELECT EXISTS (SELECT FROM viewer.daily_rollup WHERE day = %(day)s)
