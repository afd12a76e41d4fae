-- name: server_state
-- Whether the schema is there, and for how many seconds the server has been up.
SELECT to_regclass('viewer.alembic_version') IS NOT NULL,
    extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8

-- name: schema_revision
-- The migration that ran last.
SELECT version_num FROM viewer.alembic_version

-- name: last_flush_of_all
-- The last flush of the streams, and its age in seconds; NULL if there is none.
SELECT f.seq, extract(epoch FROM clock_timestamp() - f.committed_at)::float8
FROM (VALUES (1)) AS row_of_result
LEFT JOIN (
    SELECT f.seq, f.committed_at
    FROM unnest(viewer.ledger_position()) AS of_stream JOIN viewer.flush AS f ON f.seq = upper(of_stream) - 1
    ORDER BY f.committed_at DESC, f.seq DESC LIMIT 1
) AS f ON TRUE
