-- name: server_state
-- Whether the schema is there, and for how many seconds the server has been up.
SELECT to_regclass('viewer.alembic_version') IS NOT NULL,
    extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8

-- name: schema_revision
-- The migration that ran last.
SELECT version_num FROM viewer.alembic_version

-- name: age_of_last_flush
-- The age of the last flush in seconds; NULL if there is none.
SELECT (
    SELECT extract(epoch FROM clock_timestamp() - max(f.committed_at))::float8
    FROM unnest(viewer.ledger_position()) AS of_stream JOIN viewer.flush AS f ON f.seq = upper(of_stream) - 1
)
