-- name: first_flush_and_day
-- When the first flush read its counters; of those that retention deleted, the first day that has views. NULL if none.
SELECT (SELECT min(taken_at) FROM viewer.flush), (SELECT min(day) FROM viewer.daily_rollup WHERE vods > 0)
