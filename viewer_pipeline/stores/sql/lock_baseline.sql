-- Until this transaction ends, let nobody else take the baseline.
SELECT pg_advisory_xact_lock(hashtextextended('viewer.baseline_taken', 0))
