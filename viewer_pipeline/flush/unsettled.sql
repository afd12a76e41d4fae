-- name: beyond_marker
-- Flushes beyond a position of the marker, and the age of the oldest in seconds.
SELECT count(*), extract(epoch FROM clock_timestamp() - min(committed_at))::float8
FROM viewer.flush
WHERE (seq > %(seq)s AND seq <= viewer.stream_end(%(seq)s)) OR (seq = %(seq)s AND batches > %(batch)s)

-- name: beyond_markers_of_shards
-- The same in a cluster: of batches beyond the marker of their shard. Also returns these shards.
SELECT
    count(DISTINCT b.seq), extract(epoch FROM clock_timestamp() - min(f.committed_at))::float8, array_agg(DISTINCT m.shard)
FROM unnest(%(shards)s::smallint[], %(seqs)s::bigint[], %(batches)s::integer[]) AS m (shard, seq, batch)
CROSS JOIN LATERAL (
    SELECT seq FROM viewer.flush_batch WHERE shard > 0 AND shard = m.shard AND (seq, batch) > (m.seq, m.batch)
) AS b
JOIN viewer.flush AS f ON f.seq = b.seq

-- name: shards_of_last_flush
-- Shards of the last flush of a stream that took counters from a cluster: of every n-th batch, at most `limit`.
SELECT DISTINCT b.shard
FROM (
    SELECT seq, batches FROM viewer.flush
    WHERE seq BETWEEN %(first)s AND %(last)s AND viewer.counts_views(mode) ORDER BY seq DESC LIMIT 1
) AS f
JOIN viewer.flush_batch AS b ON b.seq = f.seq
WHERE b.shard > 0 AND b.batch %% (1 + f.batches / %(limit)s::integer) = %(offset)s %% (1 + f.batches / %(limit)s::integer)
