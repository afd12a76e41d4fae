-- name: flush_id_of
-- The id of a flush, by its number.
SELECT flush_id::text FROM viewer.flush WHERE seq = %(seq)s
