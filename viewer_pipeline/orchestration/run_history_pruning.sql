-- name: latest_runs
-- The runs of the latest materialization (of each partition) and the latest check result, which the UI shows.
SELECT run_id FROM event_logs WHERE id IN (
    SELECT max(id) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'
    GROUP BY asset_key, partition
)
UNION
SELECT run_id FROM asset_check_executions WHERE id IN (
    SELECT max(id) FROM asset_check_executions GROUP BY asset_key, check_name
)

-- name: old_runs
-- Ended runs of this pipeline that are older than their retention and not among the latest, oldest first.
SELECT r.run_id FROM runs AS r
WHERE EXISTS (SELECT FROM run_tags AS t WHERE t.run_id = r.run_id AND t.key = ANY(%(tags)s))
    AND (
        (r.status = 'SUCCESS' AND r.end_time < %(succeeded_before)s)
        OR (r.status IN ('FAILURE', 'CANCELED') AND r.end_time < %(failed_before)s)
    )
    AND r.run_id <> ALL(%(latest)s::text[])
ORDER BY r.id LIMIT %(limit)s

-- name: old_reports
-- Reports of the sensor that nothing was pending, which belong to no run, and what freshness followed from them; but for
-- the latest of each kind.
SELECT e.id FROM event_logs AS e
WHERE e.run_id = '' AND e.asset_key = %(asset_key)s AND e.timestamp < to_timestamp(%(before)s) AT TIME ZONE 'UTC'
    AND e.dagster_event_type IN ('ASSET_MATERIALIZATION', 'FRESHNESS_STATE_CHANGE')
    AND EXISTS (
        SELECT FROM event_logs AS newer
        WHERE newer.asset_key = e.asset_key AND newer.dagster_event_type = e.dagster_event_type AND newer.id > e.id
    )
ORDER BY e.id LIMIT %(limit)s

-- name: delete_reports
-- Some of them.
DELETE FROM event_logs WHERE id = ANY(%(ids)s)

-- name: delete_asset_event_tags
-- Tags of asset events, which Dagster's own deletion leaves behind.
DELETE FROM asset_event_tags WHERE event_id IN (
    SELECT id FROM event_logs
    WHERE run_id = ANY(%(ids)s) AND dagster_event_type IN ('ASSET_MATERIALIZATION', 'ASSET_OBSERVATION')
)

-- name: delete_check_results
-- Results of asset checks, which Dagster's own deletion leaves behind.
DELETE FROM asset_check_executions WHERE run_id = ANY(%(ids)s)

-- name: delete_events
-- All events of the runs.
DELETE FROM event_logs WHERE run_id = ANY(%(ids)s)

-- name: delete_runs
-- The runs, and by cascade their tags.
DELETE FROM runs WHERE run_id = ANY(%(ids)s)
