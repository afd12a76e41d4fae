-- Until the transaction ends, let nobody else count recorded messages and add to them.
SELECT pg_advisory_xact_lock(hashtextextended('viewer.rejected', 0))
