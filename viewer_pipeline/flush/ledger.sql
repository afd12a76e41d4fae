-- name: upsert_totals_parking
-- The same where a total would leave bigint: that VOD's views are parked, everything beside it is counted.
-- Returns ids and totals of what was counted.
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
        last_flush = excluded.last_flush,
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
        last_flush = excluded.last_flush,
        updated_at = excluded.updated_at
)
SELECT vod_id, view_count FROM counted

-- name: find_flush
-- Whether the flush that this run called flush_id was committed (rule R8), and whether this server can know it: a
-- standby lags behind, and a primary that was set read-only may have what the new one never got.
SELECT
    EXISTS (SELECT FROM viewer.flush WHERE flush_id = %(flush_id)s),
    pg_is_in_recovery(),
    current_setting('transaction_read_only') = 'on'

-- name: last_flush
-- The newest flush of the ledger: no row in a new database.
SELECT seq, batches, flush_id FROM viewer.flush ORDER BY seq DESC LIMIT 1

-- name: batches_beyond
-- Batches after the marker up to a flush, in the order in which they settle. Those of `reconcile` were never in Redis:
-- the marker passes over them, and nothing is subtracted.
SELECT
    b.seq, b.batch, f.batches, f.taken_at,
    CASE WHEN starts_with(f.mode, 'reconcile') THEN '{}' ELSE b.vod_ids END,
    CASE WHEN starts_with(f.mode, 'reconcile') THEN '{}' ELSE b.deltas END,
    f.epoch, f.flush_id::text
FROM viewer.flush_batch AS b JOIN viewer.flush AS f USING (seq)
WHERE (b.seq, b.batch) > (%(seq)s, %(batch)s) AND b.seq <= %(through)s
ORDER BY b.seq, b.batch
LIMIT %(limit)s

-- name: insert_rejects
-- Record what can never be a count, once each.
INSERT INTO viewer.rejected (digest, source, subject, value, reason)
SELECT * FROM unnest(%(digests)s::bytea[], %(sources)s::text[], %(subjects)s::text[], %(values)s::text[], %(reasons)s::text[])
ON CONFLICT (digest) DO NOTHING

-- name: lock_message_rejects
-- Until the transaction ends, let nobody else count recorded messages and add to them.
SELECT pg_advisory_xact_lock(hashtextextended('viewer.rejected', 0))

-- name: insert_message_rejects
-- Record rejects, once each and in order, while fewer than `keep` rows of their source and reason exist.
WITH new AS (
    SELECT n.*, row_number() OVER (PARTITION BY n.source, n.reason ORDER BY n.nth) AS nth_of_reason
    FROM unnest(%(digests)s::bytea[], %(sources)s::text[], %(subjects)s::text[], %(values)s::text[], %(reasons)s::text[])
        WITH ORDINALITY AS n (digest, source, subject, value, reason, nth)
    WHERE NOT EXISTS (SELECT FROM viewer.rejected AS r WHERE r.digest = n.digest)
), recorded AS (
    SELECT source, reason, (
        SELECT count(*) FROM (
            SELECT FROM viewer.rejected AS r WHERE r.source = n.source AND r.reason = n.reason LIMIT %(keep)s
        ) AS kept
    ) AS rows
    FROM (SELECT DISTINCT source, reason FROM new) AS n
)
INSERT INTO viewer.rejected (digest, source, subject, value, reason)
SELECT digest, source, subject, value, reason FROM new JOIN recorded USING (source, reason)
WHERE recorded.rows + new.nth_of_reason <= %(keep)s
ON CONFLICT (digest) DO NOTHING

-- name: recorded_rejects
-- Which of these rejects are recorded already.
SELECT digest FROM viewer.rejected WHERE digest = ANY(%(digests)s)

-- name: flushes_of_run
-- What a run has committed above a flush, in order; not what `reconcile` did under the same run.
SELECT seq, counters, views, batches FROM viewer.flush
WHERE seq > %(base)s AND run_id = %(run_id)s AND NOT starts_with(mode, 'reconcile')
ORDER BY seq

-- name: batch_digests
-- What the ledger holds for some flushes: counters, views and a digest of the contents of each batch, in order.
SELECT b.seq, b.batch, count(*), sum(c.delta),
    sha256(convert_to(string_agg(c.vod_id || E'\x1f' || c.delta, E'\n' ORDER BY c.n), 'UTF8'))
FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) WITH ORDINALITY AS c (vod_id, delta, n)
WHERE b.seq = ANY(%(seqs)s)
GROUP BY b.seq, b.batch
ORDER BY b.seq, b.batch

-- name: totals_behind
-- VODs of some flushes whose total (or parked row) does not carry that flush or a later one. None, if all is well.
SELECT b.seq, c.vod_id, t.last_flush
FROM viewer.flush_batch AS b
CROSS JOIN unnest(b.vod_ids) AS c (vod_id)
LEFT JOIN viewer.vod_view_counts AS t ON t.vod_id = c.vod_id
LEFT JOIN viewer.parked AS p ON p.vod_id = c.vod_id
WHERE b.seq = ANY(%(seqs)s)
    AND coalesce(greatest(t.last_flush, p.last_flush), 0) < b.seq
LIMIT 20

-- name: top_of_flushes
-- The VODs with the most views in some flushes, with their totals.
SELECT c.vod_id, sum(c.delta) AS views, max(t.view_count) AS total
FROM viewer.flush_batch AS b
CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
LEFT JOIN viewer.vod_view_counts AS t ON t.vod_id = c.vod_id
WHERE b.seq = ANY(%(seqs)s)
GROUP BY c.vod_id
ORDER BY views DESC, c.vod_id
LIMIT %(limit)s

-- name: recent_flushes
-- The last flushes, newest first.
SELECT seq, mode, taken_at, committed_at, counters, views, batches, run_id
FROM viewer.flush ORDER BY seq DESC LIMIT %(limit)s

-- name: sums
-- What is persisted, parked and rejected, as sums.
SELECT
    (SELECT count(*) FROM viewer.vod_view_counts),
    (SELECT coalesce(sum(view_count - baseline), 0) FROM viewer.vod_view_counts),
    (SELECT count(*) FROM viewer.parked),
    (SELECT coalesce(sum(views), 0) FROM viewer.parked),
    (SELECT count(*) FROM viewer.rejected)

-- name: totals
-- The totals of some VODs.
SELECT vod_id, view_count FROM viewer.vod_view_counts WHERE vod_id = ANY(%(vod_ids)s)

-- name: upsert_totals
-- Add the batches of one flush to the totals; return the new ones. Sorted, so that two transactions lock rows in the
-- same order. As rows: gathering them into an array here made the statement a fifth slower.
INSERT INTO viewer.vod_view_counts AS t (vod_id, view_count, last_flush, updated_at)
SELECT c.vod_id, c.delta, %(seq)s, statement_timestamp()
FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE b.seq = %(seq)s
ORDER BY c.vod_id COLLATE "C"
ON CONFLICT (vod_id) DO UPDATE SET
    view_count = t.view_count + excluded.view_count,
    last_flush = excluded.last_flush,
    updated_at = excluded.updated_at
RETURNING vod_id, view_count

-- name: insert_flush
-- Claim the next seq. No row comes back when another run committed since `base` was fixed (rules R3, R6), nor when the
-- flush that was the newest then is not the newest any more: PostgreSQL was rolled back in between; or it never was,
-- because a standby that lags was asked: then nothing was lost, and nothing may be noted as missing.
INSERT INTO viewer.flush (seq, flush_id, run_id, mode, taken_at, counters, views, batches, epoch, format)
SELECT %(seq)s, %(flush_id)s, %(run_id)s, %(mode)s, %(taken_at)s, %(counters)s, %(views)s, %(batches)s, %(epoch)s,
    %(format)s
WHERE NOT EXISTS (SELECT FROM viewer.flush WHERE seq > %(base)s)
    AND (%(after)s::uuid IS NULL OR %(after)s = (SELECT flush_id FROM viewer.flush ORDER BY seq DESC LIMIT 1))
ON CONFLICT DO NOTHING
RETURNING seq

-- name: copy_batches
-- The batches of a flush.
COPY viewer.flush_batch (seq, batch, vod_ids, deltas) FROM STDIN (FORMAT BINARY)
