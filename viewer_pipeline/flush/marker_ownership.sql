-- name: newest_through
-- The newest flush of the ledger at or below a number.
SELECT max(seq) FROM viewer.flush WHERE seq <= %(seq)s

-- name: history_conflict
-- A flush that this ledger cannot have if it alone has settled Redis: another flush under the marker's number, or any
-- flush among those that the ledger lacked when Redis was last settled.
SELECT seq, flush_id::text FROM viewer.flush
WHERE (seq = %(seq)s::bigint AND flush_id::text <> %(flush_id)s) OR (seq > %(missing_after)s AND seq <= %(missing_through)s)
ORDER BY seq LIMIT 1
