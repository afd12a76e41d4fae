-- name: flush_ids
-- The ids of the flushes with some numbers, as far as the ledger has them.
SELECT seq, flush_id::text FROM viewer.flush WHERE seq = ANY(%(seqs)s)

-- name: any_flush_between
-- A row if the ledger has a flush among those that it lacked when a shard was last settled.
SELECT 1 FROM viewer.flush WHERE seq > %(after)s AND seq <= %(through)s LIMIT 1
