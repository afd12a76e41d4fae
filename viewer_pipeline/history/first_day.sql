-- name: first_day
-- The day of the first flush; of those that retention deleted, the first day that has views. NULL if there is none.
SELECT least(
    (SELECT (min(taken_at) AT TIME ZONE 'UTC')::date FROM viewer.flush),
    (SELECT min(day) FROM viewer.daily_rollup WHERE vods > 0)
)
