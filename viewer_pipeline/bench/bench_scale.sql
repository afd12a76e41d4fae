-- name: count_totals
-- Return how many VODs have a total, and their views.
SELECT count(*), coalesce(sum(view_count), 0) FROM viewer.vod_view_counts

-- name: read_bytes_per_counter
-- The sizes on disk, with indexes: of the ledger for each counter of its flushes, of the totals for each VOD.
SELECT
    (pg_total_relation_size('viewer.flush') + pg_total_relation_size('viewer.flush_batch'))
        / (SELECT sum(counters) FROM viewer.flush),
    pg_total_relation_size('viewer.vod_view_counts') / (SELECT count(*) FROM viewer.vod_view_counts)
