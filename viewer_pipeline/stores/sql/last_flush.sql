-- The newest flush of the ledger: no row in a new database.
SELECT seq, batches, flush_id FROM viewer.flush ORDER BY seq DESC LIMIT 1
