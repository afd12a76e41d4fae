-- name: server_state
-- Whether the schema is there, and for how many seconds the server has been up.
SELECT to_regclass('viewer.alembic_version') IS NOT NULL,
    extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8

-- name: schema_revision
-- The migration that ran last.
SELECT version_num FROM viewer.alembic_version

-- name: flush_ages
-- Flushes beyond a position of the marker, the age of the oldest in seconds, and the age of the last flush of all.
SELECT
    count(*), extract(epoch FROM clock_timestamp() - min(committed_at))::float8,
    (
        SELECT extract(epoch FROM clock_timestamp() - committed_at)::float8 FROM viewer.flush ORDER BY seq DESC LIMIT 1
    )
FROM viewer.flush
WHERE seq > %(seq)s OR (seq = %(seq)s AND batches > %(batch)s)
