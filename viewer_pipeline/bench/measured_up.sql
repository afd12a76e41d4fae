-- name: read_sessions_and_runs
-- The sessions of this database so far, and the runs: all, those that have not ended, those that did not succeed.
SELECT
    (SELECT sessions FROM pg_stat_database WHERE datname = current_database()),
    count(*),
    count(*) FILTER (WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')),
    count(*) FILTER (WHERE status IN ('FAILURE', 'CANCELED'))
FROM dagster.runs

-- name: read_persisted_at
-- When the total of each VOD was written, in seconds since 1970.
SELECT vod_id, extract(epoch FROM updated_at)::float8 FROM viewer.vod_view_counts

-- name: read_tick_to_success
-- Seconds from the tick of the sensor that launched a run to the end of the run, for ticks since a time.
SELECT r.end_time - extract(epoch FROM t.timestamp)::float8
FROM dagster.job_ticks AS t
JOIN dagster.run_tags AS g ON g.key = 'dagster/tick' AND g.value = t.id::text
JOIN dagster.runs AS r ON r.run_id = g.run_id
WHERE t.type = 'SENSOR' AND r.status = 'SUCCESS' AND extract(epoch FROM t.timestamp) >= %(since)s
ORDER BY t.id
