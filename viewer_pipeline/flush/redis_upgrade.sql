-- name: has_flushes
-- Whether the ledger, also that of version 0.1.0, ever had a flush.
SELECT EXISTS (SELECT FROM viewer.flush)

-- name: flush_id_of
-- The id of a flush, by its number.
SELECT flush_id::text FROM viewer.flush WHERE seq = %(seq)s
