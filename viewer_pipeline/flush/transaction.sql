-- name: lock_stream
-- Until this transaction ends, no other one claims a number of the stream, or closes it. Two with one `base` have the same
-- number, and its unique index would suffice. But a base may differ from that of another run: while a marker is ahead of the
-- ledger, and falls back.
SELECT FROM viewer.stream WHERE stream = viewer.stream_of(%(base)s) FOR NO KEY UPDATE

-- name: insert_flush
-- Claim the next seq of a stream. Returns no row if another run has committed since `base` was fixed (rules R3, R6), or if
-- the newest flush is another one than at that time (none is as good as any): another run committed below `base`,
-- PostgreSQL was rolled back in between, or a lagging standby replied. The same if PostgreSQL has another timeline by now,
-- and so may have lost flushes (rule R17), and if the stream was closed.
INSERT INTO viewer.flush (seq, flush_id, run_id, mode, taken_at, counters, views, batches, epoch, format)
SELECT %(seq)s, %(flush_id)s, %(run_id)s, %(mode)s, %(taken_at)s, %(counters)s, %(views)s, %(batches)s, %(epoch)s,
    %(format)s
WHERE viewer.timeline() = %(timeline)s
    AND NOT EXISTS (SELECT FROM viewer.flush WHERE seq > %(base)s AND seq <= viewer.stream_end(%(base)s))
    AND %(after)s::uuid IS NOT DISTINCT FROM (
        SELECT flush_id FROM viewer.flush
        WHERE seq BETWEEN viewer.stream_start(%(base)s) AND viewer.stream_end(%(base)s)
        ORDER BY seq DESC LIMIT 1
    )
    AND EXISTS (SELECT FROM viewer.stream WHERE stream = viewer.stream_of(%(base)s) AND state = 'active')
ON CONFLICT DO NOTHING
RETURNING seq

-- name: copy_batches
-- The batches of a flush.
COPY viewer.flush_batch (seq, batch, vod_ids, deltas) FROM STDIN (FORMAT BINARY)

-- name: copy_batches_of_shards
-- The same for a flush of a cluster: each batch with its shard, and the epoch of that shard's marker.
COPY viewer.flush_batch (seq, batch, vod_ids, deltas, shard, epoch) FROM STDIN (FORMAT BINARY)

-- name: follow_index_of_totals
-- For the rest of this transaction: MERGE finds totals by their index and locks them in the order of their ids, as
-- upsert_totals does. The cost is that of an index in memory: by default, all totals would be read to find one in fifty.
SELECT
    set_config('enable_seqscan', 'off', TRUE), set_config('enable_hashjoin', 'off', TRUE),
    set_config('random_page_cost', '1.1', TRUE)

-- name: merge_totals
-- Add the batches of a flush to the totals, without VODs that were parked; return the new totals. As upsert_totals, but
-- ON CONFLICT locks each row, and writes that to the WAL, before it updates it. The batches are found one by one, and the
-- ids lie between `first` and `last`, so that the planner knows how many they are and how many totals there are among
-- them: no statistics tell it.
MERGE INTO viewer.vod_view_counts AS t
USING (
    SELECT c.vod_id, c.delta
    FROM (
        SELECT unnest(b.vod_ids) COLLATE "C" AS vod_id, unnest(b.deltas) AS delta
        FROM generate_series(1, %(batches)s) AS n
        CROSS JOIN LATERAL (SELECT vod_ids, deltas FROM viewer.flush_batch WHERE seq = %(seq)s AND batch = n LIMIT 1) AS b
    ) AS c
    WHERE (c.vod_id = ANY(%(parked)s)) IS NOT TRUE
    ORDER BY c.vod_id
) AS s ON t.vod_id = s.vod_id AND t.vod_id BETWEEN %(first)s AND %(last)s
WHEN MATCHED THEN UPDATE SET
    view_count = t.view_count + s.delta, last_flush = greatest(t.last_flush, %(seq)s), updated_at = statement_timestamp()
WHEN NOT MATCHED THEN INSERT (vod_id, view_count, last_flush, updated_at)
    VALUES (s.vod_id, s.delta, %(seq)s, statement_timestamp())
RETURNING t.vod_id, t.view_count

-- name: upsert_totals
-- Add the batches of a flush to the totals, without VODs that were parked; return the new totals. Sorted, so that two
-- transactions lock rows in the same order. As rows: an array made the statement a fifth slower.
INSERT INTO viewer.vod_view_counts AS t (vod_id, view_count, last_flush, updated_at)
SELECT c.vod_id, c.delta, %(seq)s, statement_timestamp()
FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE b.seq = %(seq)s AND (c.vod_id = ANY(%(parked)s)) IS NOT TRUE
ORDER BY c.vod_id COLLATE "C"
ON CONFLICT (vod_id) DO UPDATE SET
    view_count = t.view_count + excluded.view_count,
    last_flush = greatest(t.last_flush, excluded.last_flush),
    updated_at = excluded.updated_at
RETURNING vod_id, view_count

-- name: upsert_totals_parking
-- The same where a total would exceed bigint: the views of that VOD are parked, all others are counted.
-- Returns the ids and totals of the counted VODs.
WITH due AS (
    SELECT c.vod_id, c.delta
    FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
    WHERE b.seq = %(seq)s
    ORDER BY c.vod_id COLLATE "C"
), counted AS (
    INSERT INTO viewer.vod_view_counts AS t (vod_id, view_count, last_flush, updated_at)
    SELECT vod_id, delta, %(seq)s, statement_timestamp() FROM due
    ON CONFLICT (vod_id) DO UPDATE SET
        view_count = t.view_count + excluded.view_count,
        last_flush = greatest(t.last_flush, excluded.last_flush),
        updated_at = excluded.updated_at
    WHERE t.view_count <= 9223372036854775807 - excluded.view_count
    RETURNING vod_id, view_count
), parked AS (
    INSERT INTO viewer.parked AS p (vod_id, views, reason, last_flush, updated_at)
    SELECT due.vod_id, due.delta, 'total would be over int64', %(seq)s, statement_timestamp()
    FROM due LEFT JOIN counted USING (vod_id)
    WHERE counted.vod_id IS NULL
    ON CONFLICT (vod_id) DO UPDATE SET
        views = p.views + excluded.views,
        reason = excluded.reason,
        last_flush = greatest(p.last_flush, excluded.last_flush),
        updated_at = excluded.updated_at
)
SELECT vod_id, view_count FROM counted

-- name: hold_views
-- Hold the views of the batches of a flush. Sorted, so that two transactions lock rows in the same order.
INSERT INTO viewer.held AS h (epoch, vod_id, views, last_flush)
SELECT coalesce(b.epoch, %(epoch)s), c.vod_id, c.delta, %(seq)s
FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE b.seq = %(seq)s
ORDER BY c.vod_id COLLATE "C"
ON CONFLICT (epoch, vod_id) DO UPDATE SET views = h.views + excluded.views, last_flush = excluded.last_flush
