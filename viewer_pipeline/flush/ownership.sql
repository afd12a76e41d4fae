-- name: newest_through
-- newest_through
-- The newest flush that the ledger has at or below a number.
SELECT max(seq) FROM viewer.flush WHERE seq <= %(seq)s

-- name: history_conflict
-- history_conflict
-- A flush of this ledger that cannot be there if Redis was settled by this ledger alone: under the number where the
-- marker stands, another flush; or any flush among those that the ledger had lost when Redis was settled last.
SELECT seq, flush_id::text FROM viewer.flush
WHERE (seq = %(seq)s::bigint AND flush_id::text <> %(flush_id)s) OR (seq > %(missing_after)s AND seq <= %(missing_through)s)
ORDER BY seq LIMIT 1
