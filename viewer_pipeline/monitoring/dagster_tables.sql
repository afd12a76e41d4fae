-- name: heartbeats
-- The last heartbeat of each daemon.
SELECT body FROM daemon_heartbeats

-- name: instigators
-- Sensors and schedules that Dagster's daemon has registered.
SELECT selector_id, status, instigator_body FROM instigators

-- name: last_tick
-- The last evaluation of a sensor or schedule that has ended.
SELECT tick_body FROM job_ticks WHERE selector_id = %(selector)s AND status <> 'STARTED'
ORDER BY timestamp DESC LIMIT 1

-- name: last_evaluation
-- When a sensor or schedule was last evaluated without an error. Bounded: while it fails, every interval adds a tick.
SELECT max((tick_body::json ->> 'timestamp')::float8) FILTER (WHERE status <> 'FAILURE')
FROM (
    SELECT tick_body, status FROM job_ticks WHERE selector_id = %(selector)s AND status <> 'STARTED'
    ORDER BY timestamp DESC LIMIT 100
) AS ticks

-- name: count_ticks_after
-- Ticks of all sensors and schedules after a time.
SELECT count(*) FROM job_ticks WHERE timestamp > to_timestamp(%(time)s) AT TIME ZONE 'UTC'

-- name: last_runs
-- The last runs of a job that have ended.
SELECT run_id, status = 'SUCCESS', end_time FROM runs
WHERE pipeline_name = %(job)s AND status IN ('SUCCESS', 'FAILURE') ORDER BY id DESC LIMIT %(limit)s

-- name: waiting_run
-- The first run of a job that has not started, and the time of its first event: when it was requested.
SELECT runs.run_id, (first_event.event::json ->> 'timestamp')::float8
FROM runs CROSS JOIN LATERAL (
    SELECT event FROM event_logs WHERE event_logs.run_id = runs.run_id ORDER BY event_logs.id LIMIT 1
) AS first_event
WHERE pipeline_name = %(job)s AND status IN ('QUEUED', 'STARTING') ORDER BY runs.id LIMIT 1

-- name: running_runs
-- Runs that have started and not ended.
SELECT run_id, pipeline_name, start_time FROM runs
WHERE status IN ('STARTING', 'STARTED', 'CANCELING') AND start_time IS NOT NULL ORDER BY id

-- name: run_failure
-- The first failure of a run, and the event before it, which has the error of a launch.
SELECT event, (
    SELECT event FROM event_logs AS earlier WHERE earlier.run_id = failure.run_id AND earlier.id < failure.id
    ORDER BY earlier.id DESC LIMIT 1
)
FROM event_logs AS failure
WHERE run_id = %(run_id)s AND dagster_event_type IN ('STEP_FAILURE', 'PIPELINE_FAILURE') ORDER BY id LIMIT 1

-- name: has_usage
-- Whether this role may use a schema; no row where there is no such schema.
SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = %(schema)s
