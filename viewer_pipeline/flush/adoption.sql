-- name: newest_stream
-- The newest stream that the ledger has, or had.
SELECT max(stream) FROM viewer.stream
