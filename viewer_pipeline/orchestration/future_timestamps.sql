-- name: delete_future_ticks
-- Ticks of sensors and schedules in the future: a schedule is not evaluated before its last tick.
DELETE FROM job_ticks WHERE timestamp > to_timestamp(%(now)s) AT TIME ZONE 'UTC'

-- name: restart_runtime_of_active_runs
-- Active runs that started in the future: their maximum runtime would end hours late.
UPDATE runs SET start_time = %(now)s WHERE start_time > %(now)s AND status IN ('STARTED', 'CANCELING')
