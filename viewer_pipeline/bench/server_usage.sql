-- name: count_other_sessions
-- The sessions that have not ended yet, without this one: the CPU time of an ended process stays with its parent.
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()

-- name: read_wal_bytes
-- The size of the write-ahead log since the cluster was created.
SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')

-- name: read_bytes_per_counter
-- The sizes on disk, with indexes: of the ledger for each counter of its flushes, of the totals for each VOD.
SELECT
    (pg_total_relation_size('viewer.flush') + pg_total_relation_size('viewer.flush_batch'))
        / (SELECT sum(counters) FROM viewer.flush),
    pg_total_relation_size('viewer.vod_view_counts') / (SELECT count(*) FROM viewer.vod_view_counts)
