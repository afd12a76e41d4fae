-- The sums over flushes.
SELECT mode, outcome, count, seconds, buckets, drift FROM viewer.flush_sums ORDER BY mode, outcome
