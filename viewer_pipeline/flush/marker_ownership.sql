-- name: newest_through
-- The newest flush of a stream at or below a number.
SELECT max(seq) FROM viewer.flush WHERE seq BETWEEN viewer.stream_start(%(seq)s) AND %(seq)s

-- name: history_conflict
-- A flush that this ledger cannot have if it alone has settled Redis: another flush under the marker's number, or any
-- flush among those that the ledger lacked when Redis was last settled.
SELECT seq, flush_id::text FROM viewer.flush
WHERE (seq = %(seq)s::bigint AND flush_id::text <> %(flush_id)s) OR (seq > %(missing_after)s AND seq <= %(missing_through)s)
ORDER BY seq LIMIT 1

-- name: newest_flushes_through
-- For each marker of some shards (its flush and that flush's id): the newest flush of its stream at or below its number, and
-- the last one of the stream that retention has deleted.
SELECT
    m.seq, m.flush_id, f.seq, f.flush_id::text,
    (SELECT coalesce(max(last_seq), 0) FROM viewer.pruned_flushes WHERE stream = viewer.stream_of(m.seq))
FROM unnest(%(seqs)s::bigint[], %(flush_ids)s::text[]) AS m (seq, flush_id)
LEFT JOIN LATERAL (
    SELECT seq, flush_id FROM viewer.flush
    WHERE seq BETWEEN viewer.stream_start(m.seq) AND m.seq
    ORDER BY seq DESC LIMIT 1
) AS f ON TRUE

-- name: flush_that_was_missing
-- A flush of the ledger among those that it lacked when a shard was last settled; no row if there is none.
SELECT f.seq, f.flush_id::text
FROM unnest(%(afters)s::bigint[], %(throughs)s::bigint[]) AS m (missing_after, missing_through)
JOIN viewer.flush AS f ON f.seq > m.missing_after AND f.seq <= m.missing_through
LIMIT 1
