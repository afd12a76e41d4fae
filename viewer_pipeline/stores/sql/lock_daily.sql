-- One at a time rolls up, or says up to which day the ledger is kept; until the transaction ends.
SELECT pg_advisory_xact_lock(7310579122)
