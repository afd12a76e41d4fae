-- name: unpruned_rollups
-- Return the bounds and the zone of each day that is rolled up and not final.
SELECT r.day, r.starts_at, r.ends_at, r.time_zone
FROM viewer.daily_rollup AS r JOIN viewer.ledger_kept AS k ON r.day >= k.from_day
ORDER BY r.day

-- name: first_and_last_flush
-- Return when the first and the last flush of a period read their counters. Repairs are no views.
SELECT min(taken_at), max(taken_at) FROM viewer.flush
WHERE taken_at >= %(starts_at)s AND taken_at < %(ends_at)s AND viewer.counts_views(mode)

-- name: delete_daily_views
-- Delete the views of days that have other bounds.
DELETE FROM viewer.daily_views WHERE day = ANY(%(days)s)

-- name: delete_rollups
-- Delete what is recorded of days that have other bounds.
DELETE FROM viewer.daily_rollup WHERE day = ANY(%(days)s)
