-- name: is_new
-- Whether the ledger never had a flush: it has one stream, which is active, and nothing was pruned.
SELECT NOT EXISTS (SELECT FROM viewer.flush) AND NOT EXISTS (SELECT FROM viewer.pruned_flushes)
