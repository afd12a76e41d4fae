-- name: count_other_sessions
-- The sessions that have not ended yet, without this one: the CPU time of an ended process stays with its parent.
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()

-- name: read_wal_bytes
-- The size of the write-ahead log since the cluster was created.
SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')
