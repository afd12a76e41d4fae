-- name: read_commit_state
-- Whether a flush was committed (rule R8), and whether this server can know it: a standby lags behind, and a primary
-- that was set read-only may hold what the new primary never received.
SELECT
    EXISTS (SELECT FROM viewer.flush WHERE flush_id = %(flush_id)s),
    pg_is_in_recovery(),
    current_setting('transaction_read_only') = 'on'

-- name: last_flush
-- The newest flush of a stream, NULL if it has none, and the timeline that it was read in (rule R17).
SELECT f.seq, f.batches, f.flush_id, t.timeline
FROM viewer.timeline() AS t (timeline)
LEFT JOIN (
    SELECT seq, batches, flush_id FROM viewer.flush WHERE seq BETWEEN %(first)s AND %(last)s ORDER BY seq DESC LIMIT 1
) AS f ON TRUE

-- name: read_batches_after
-- Batches after the marker up to a flush, in settling order. Those of `reconcile` never were in Redis, and held views are
-- subtracted already when they are counted: these come without counters, so the marker advances and nothing is subtracted.
-- With the timeline that they were read in (rule R17), and whether retention has deleted flushes after the marker (R16).
SELECT
    b.seq, b.batch, f.batches, f.taken_at,
    CASE WHEN starts_with(f.mode, 'reconcile') OR f.mode = 'count_held' THEN '{}' ELSE b.vod_ids END,
    CASE WHEN starts_with(f.mode, 'reconcile') OR f.mode = 'count_held' THEN '{}' ELSE b.deltas END,
    f.epoch, f.flush_id::text,
    (SELECT viewer.timeline()), (
        SELECT coalesce(max(last_seq), 0) FROM viewer.pruned_flushes WHERE stream = viewer.stream_of(%(seq)s)
    ) > %(seq)s
FROM viewer.flush_batch AS b JOIN viewer.flush AS f USING (seq)
WHERE (b.seq, b.batch) > (%(seq)s, %(batch)s) AND b.seq <= %(through)s
ORDER BY b.seq, b.batch
LIMIT %(limit)s

-- name: read_batches_of_shards_after
-- The same in a cluster: of each shard, batches after its marker up to a flush, in settling order. A shard has no batch of a
-- repair or of counted held views: these were never in its counters, or subtracted before.
SELECT
    b.seq, b.batch, f.batches, f.taken_at, b.vod_ids, b.deltas, b.epoch, f.flush_id::text, b.shard,
    (SELECT viewer.timeline()), (
        SELECT coalesce(max(last_seq), 0) FROM viewer.pruned_flushes WHERE stream = viewer.stream_of(m.seq)
    ) > m.seq
FROM unnest(%(shards)s::smallint[], %(seqs)s::bigint[], %(batches)s::integer[]) AS m (shard, seq, batch)
CROSS JOIN LATERAL (
    SELECT seq, batch, vod_ids, deltas, epoch, shard
    FROM viewer.flush_batch
    WHERE shard > 0 AND shard = m.shard AND (seq, batch) > (m.seq, m.batch) AND seq <= %(through)s
    ORDER BY seq, batch
    LIMIT %(limit)s
) AS b
JOIN viewer.flush AS f ON f.seq = b.seq
ORDER BY b.shard, b.seq, b.batch
LIMIT %(limit)s

-- name: pruned_through
-- The last flush of a stream that retention has deleted; 0 if it has deleted none.
SELECT coalesce(max(last_seq), 0) FROM viewer.pruned_flushes WHERE stream = %(stream)s

-- name: flushes_of_run
-- The flushes of a run above a flush, in its stream, in order; without the adjustments of `reconcile` by the same run.
SELECT seq, counters, views, batches, mode FROM viewer.flush
WHERE seq > %(base)s AND seq <= viewer.stream_end(%(base)s) AND run_id = %(run_id)s AND NOT starts_with(mode, 'reconcile')
ORDER BY seq

-- name: sum_batches
-- Counters, views and batches of some flushes, as their batches have them.
SELECT b.seq, sum(cardinality(b.vod_ids)), sum((SELECT sum(delta) FROM unnest(b.deltas) AS delta)), count(*), f.mode
FROM viewer.flush_batch AS b JOIN viewer.flush AS f USING (seq)
WHERE b.seq = ANY(%(seqs)s)
GROUP BY b.seq, f.mode

-- name: batch_digests
-- Number of ids and a digest of each batch of some flushes, in order. NULL, which no batch holds, reads as a separator.
SELECT
    seq, batch, cardinality(vod_ids),
    sha256(convert_to(concat(
        array_to_string(vod_ids, %(separator)s, %(separator)s), %(separator)s,
        array_to_string(deltas, ' ', %(separator)s)
    ), 'UTF8'))
FROM viewer.flush_batch
WHERE seq = ANY(%(seqs)s)
ORDER BY seq, batch

-- name: find_totals_behind_their_flush
-- VODs of some flushes whose total (or parked row) carries neither that flush nor a later one. No row if all is well.
-- First one index scan for each batch: a sixth of the cost of a join, half before PostgreSQL 17. Then only batches with
-- too few such totals.
WITH suspects AS MATERIALIZED (
    SELECT b.seq, b.vod_ids
    FROM viewer.flush_batch AS b
    WHERE b.seq = ANY(%(seqs)s) AND cardinality(b.vod_ids) <> (
        SELECT count(*) FROM viewer.vod_view_counts AS t WHERE t.vod_id = ANY(b.vod_ids) AND t.last_flush >= b.seq
    )
)
SELECT s.seq, c.vod_id, t.last_flush
FROM suspects AS s
CROSS JOIN unnest(s.vod_ids) AS c (vod_id)
LEFT JOIN viewer.vod_view_counts AS t ON t.vod_id = c.vod_id
LEFT JOIN viewer.parked AS p ON p.vod_id = c.vod_id
WHERE coalesce(greatest(t.last_flush, p.last_flush), 0) < s.seq
LIMIT 20

-- name: counters_of_flushes
-- Ids and deltas of some flushes.
SELECT c.vod_id, c.delta
FROM viewer.flush_batch AS b CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE b.seq = ANY(%(seqs)s)

-- name: recent_flushes
-- The last flushes of all streams, newest first.
SELECT f.seq, f.mode, f.taken_at, f.committed_at, f.counters, f.views, f.batches, f.run_id
FROM unnest(viewer.ledger_position()) AS of_stream
CROSS JOIN LATERAL (
    SELECT seq, mode, taken_at, committed_at, counters, views, batches, run_id FROM viewer.flush
    WHERE seq >= lower(of_stream) AND seq < upper(of_stream)
    ORDER BY seq DESC LIMIT %(limit)s
) AS f
ORDER BY f.committed_at DESC, f.seq DESC LIMIT %(limit)s

-- name: last_reading
-- When the counters of the last flush up to a number were read, in its stream; without the adjustments of `reconcile`.
SELECT taken_at FROM viewer.flush
WHERE seq BETWEEN viewer.stream_start(%(through)s) AND %(through)s AND NOT starts_with(mode, 'reconcile') ORDER BY seq DESC LIMIT 1

-- name: stored_views_summary
-- How much is persisted, parked and rejected.
SELECT
    (SELECT count(*) FROM viewer.vod_view_counts),
    (SELECT coalesce(sum(view_count - baseline), 0) FROM viewer.vod_view_counts),
    (SELECT count(*) FROM viewer.parked),
    (SELECT coalesce(sum(views), 0) FROM viewer.parked),
    (SELECT coalesce(sum(inputs), 0)::bigint FROM viewer.rejected_count)

-- name: totals
-- The totals of some VODs.
SELECT vod_id, view_count FROM viewer.vod_view_counts WHERE vod_id = ANY(%(vod_ids)s)

-- name: held_summary
-- Of the first held rows, since there may be a million: their number, their views, and the age of the oldest in seconds.
SELECT count(*), coalesce(sum(views), 0), extract(epoch FROM clock_timestamp() - min(held_at))::float8
FROM (SELECT views, held_at FROM viewer.held LIMIT %(limit)s) AS first_rows
